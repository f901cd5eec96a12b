"""Folders of image files as random-access sources."""

from collections.abc import Sequence
import hashlib
import itertools
import os
from pathlib import Path
import re
from typing import Any

from vtp_eqx.config import require
from vtp_eqx.data.images import decode_image, read_file, SUFFIXES


# To ask a network file system for the size of each of a million files takes minutes;
# a set that was converted or resized shows it in any thousand.
_SIZED = 1000
_NUMBER = re.compile("([0-9]+)")


class FolderSource:
    """The image files of a folder, in the order of their names.

    Where they lie in subfolders, each subfolder is a class, and its label is its place
    among the names in order (see `in_order`); an empty one keeps its place. Where they
    lie in the folder itself, there are no labels.

    `source[row]` has `image` (uint8, of the file's own size), `id` and maybe `label`;
    in `source.encoded(row)` the image is the bytes of its file. Both raise
    `images.UnreadableImageError` for a file that is damaged, none at all, or gone.
    Nothing but names is held in memory. Can be pickled, for worker processes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        require(
            self.folder.is_dir(),
            f"Images are read from a folder; got {self.folder}: check the path.",
        )
        names = sorted(_files(self.folder))
        self.names = [name for name in names if _suffix(name) in SUFFIXES]
        self.ignored = [name for name in names if _suffix(name) not in SUFFIXES]
        require(
            bool(self.names),
            f"A folder of images has files ending in {', '.join(sorted(SUFFIXES))}; "
            f"found none in {self.folder}, and {len(self.ignored)} others: check the "
            "path.",
        )
        loose = [name for name in self.names if "/" not in name]
        require(
            len(loose) in (0, len(self.names)),
            "Images lie in class folders or all in one folder; got "
            f"{len(loose)} of {len(self.names)} beside class folders in {self.folder} "
            f"({loose[:1]}): move them.",
        )
        self.class_names = () if loose else tuple(_classes(self.folder))
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = self.encoded(row)
        return {**example, "image": decode_image(example["image"], self.names[row])}

    def encoded(self, row: int) -> dict[str, Any]:
        """The same, with `image` as the bytes of its file."""
        name = self.names[row]
        example: dict[str, Any] = {"id": row}
        if self.class_names:
            example["label"] = self._labels[name.partition("/")[0]]
        # Read last: the label of an unreadable file is of no use.
        return {**example, "image": read_file(self.folder / name, name)}

    @property
    def fingerprint(self) -> str:
        """Changes whenever a file comes or goes, or files of other sizes replace them.

        Not with copying. Sizes are those of at most a thousand files, evenly spread.
        """
        digest = hashlib.sha256("\n".join(self.names).encode("utf-8", "replace"))
        for name in self.names[:: -(-len(self.names) // _SIZED)]:
            try:
                size = (self.folder / name).stat().st_size
            except OSError:
                size = -1
            digest.update(f"\n{size}".encode())
        return digest.hexdigest()[:12]


def _files(folder: Path) -> list[str]:
    """Names of all files below `folder`, from there, with `/`; hidden ones left out."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(place) / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".")
        ]
    return found


def _classes(folder: Path) -> list[str]:
    visible = (place for place in folder.iterdir() if not place.name.startswith("."))
    return in_order([place.name for place in visible if place.is_dir()])


def in_order(names: Sequence[str]) -> list[str]:
    """The names of class folders in the order of labels.

    By number where what they first differ in is one (`8 9 10`, `class_9 class_10`), and
    else as text.
    """
    parts = [_NUMBER.split(name) for name in names]  # text, number, text, ...
    for place, column in enumerate(itertools.zip_longest(*parts)):
        if len(set(column)) > 1:
            if place % 2 and all(column):
                numbers = dict(zip(names, map(int, column), strict=True))
                return sorted(names, key=lambda name: (numbers[name], name))
            break
    return sorted(names)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()
