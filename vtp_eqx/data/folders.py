"""Folders of image files as random-access sources."""

from collections import deque
from collections.abc import Sequence
import hashlib
import itertools
import os
from pathlib import Path
import re
import stat
from typing import Any, Literal, NamedTuple

from vtp_eqx.config import require
from vtp_eqx.data.example_texts import read_texts, TEXT_PARTS
from vtp_eqx.data.images import decode_image, read_file, SUFFIXES, UnreadableImageError
from vtp_eqx.data.skipped import Skipped, skipped_of, SYSTEM_NAMES
from vtp_eqx.file_kinds import describe_error, describe_file


# To ask a network file system for the size of each of a million files takes minutes;
# a set that was converted or resized shows it in any thousand.
_SIZED = 1000
_NUMBER = re.compile("([0-9]+)")
# Of these no file can be read alone.
ARCHIVES = (
    ".7z", ".bz2", ".gz", ".lz4", ".rar", ".tbz2", ".tgz", ".txz", ".xz", ".zip", ".zst"
)  # fmt: skip
_TEXTS = tuple(f".{suffix}" for suffix in TEXT_PARTS)


class FolderSource:
    """The image files of a folder, in the order of their names.

    Where they lie in subfolders, each subfolder is a class, and its label is its place
    among the names in order (see `in_order`); an empty one keeps its place. Where they
    lie in the folder itself, there are no labels. `KEY.txt`, `KEY.json` and `KEY.cls`
    beside `KEY.jpg` are read as in a tar: see `vtp_eqx.data.example_texts`.

    `source[row]` has `image` (uint8, of the file's own size), `id`, maybe `label` and,
    where there are such texts, `caption` and `repair`; in `source.encoded(row)` the
    image is the bytes of its file. Both raise `images.UnreadableImageError` for a file
    that is damaged, none at all, or gone. `skipped` says what in the folder is no
    example. Links are followed, but each folder is read once. Nothing but names is held
    in memory. Can be pickled, for worker processes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        require(
            self.folder.is_dir(),
            f"Images are read from a folder; got {self.folder} "
            f"({describe_file(self.folder)}): check the path.",
        )
        listing = list_folder(self.folder)
        self.names, others = listing.images, listing.others
        keys = {name.rpartition(".")[0] for name in self.names} if others else set()
        is_text = lambda name: name.endswith(_TEXTS) and name.rpartition(".")[0] in keys
        self._texts = frozenset(filter(is_text, others))
        self.ignored = [name for name in others if name not in self._texts]
        self.skipped = tuple(
            Skipped(reason, len(names), names)
            for reason, names in (
                ("files are no images by name", self.ignored),
                ("files and folders are hidden or of a file server", listing.system),
                ("folders and files could not be read", listing.unread),
                ("links lead to folders that are read already", listing.repeated),
            )
        )
        if not self.names:  # no `require`: the advice looks at every name
            seen = "".join(f"; {skipped}" for skipped in skipped_of(self))
            raise ValueError(
                "A folder of images has files ending in "
                f"{', '.join(sorted(SUFFIXES))}; found none in {self.folder}{seen}: "
                f"{_advice(self.ignored)}."
            )
        loose = [name for name in self.names if "/" not in name]
        require(
            len(loose) in (0, len(self.names)),
            "Images lie in class folders or all in one folder; got "
            f"{len(loose)} of {len(self.names)} beside class folders in {self.folder} "
            f"({loose[:1]}): move them.",
        )
        self.class_names = () if loose else tuple(in_order(listing.classes))
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = self.encoded(row)
        return {**example, "image": decode_image(example["image"], self.name(row))}

    def name(self, row: int) -> str:
        """The name of `row`, for messages."""
        return self.names[row]

    def encoded(self, row: int) -> dict[str, Any]:
        """The same, with `image` as the bytes of its file."""
        name = self.names[row]
        example: dict[str, Any] = {"id": row}
        if self.class_names:
            example["label"] = self._labels[name.partition("/")[0]]
        # Read last: the label of an unreadable file is of no use.
        example["image"] = read_file(self.folder / name, name)
        return {**self._read_texts(name), **example}

    def _read_texts(self, name: str) -> dict[str, Any]:
        """Caption and label beside an image, and the repair of them; or nothing."""
        contents, reason = {}, ""
        for suffix, part in TEXT_PARTS.items():
            text = f"{name.rpartition('.')[0]}.{suffix}"
            if text in self._texts:
                try:
                    contents[part] = read_file(self.folder / text, text)
                except UnreadableImageError as error:
                    reason = f"{text} cannot be read ({error.reason})"
        found = read_texts(contents) if contents or reason else {}
        return {**found, "repair": reason} if reason else found

    @property
    def files(self) -> list[str]:
        """The names of all files that examples are read from: images, then texts."""
        return [*self.names, *sorted(self._texts)]

    @property
    def fingerprint(self) -> str:
        """Changes whenever a file comes or goes, or files of other sizes replace them.

        Not with copying. Sizes are those of at most a thousand files, evenly spread.
        """
        names = self.files
        digest = hashlib.sha256("\n".join(names).encode("utf-8", "replace"))
        for name in names[:: -(-len(names) // _SIZED)]:
            try:
                size = (self.folder / name).stat().st_size
            except OSError:
                size = -1
            digest.update(f"\n{size}".encode())
        return digest.hexdigest()[:12]


class Listing(NamedTuple):
    """What lies in a folder, by names from there with `/`; folders end in one."""

    images: list[str]
    classes: list[str]  # folders directly in it
    others: list[str]
    system: list[str]  # or hidden
    unread: list[str]  # with reasons
    repeated: list[str]  # links to folders


def list_folder(folder: Path) -> Listing:
    """All files below `folder`, each of its folders once.

    Links come last, so that a folder is read by its own name where that is below
    `folder` too. A link to a folder that holds `folder` is not followed at all.
    """
    found = Listing(*([] for _ in Listing._fields))
    real, links = deque([("", os.path.realpath(folder))]), deque[tuple[str, str]]()
    read: set[str] = set()
    root = real[0][1]
    while real or links:
        name, target = real.popleft() if real else links.popleft()
        if target in read or (target != root and Path(root).is_relative_to(target)):
            found.repeated.append(name)
            continue
        read.add(target)
        if name and "/" not in name:
            found.classes.append(name)
        try:
            with os.scandir(folder / name) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.unread.append(f"{name or folder} ({describe_error(error)})")
            continue
        for entry in inside:
            inner = f"{name}/{entry.name}" if name else entry.name
            kind = _kind(entry)
            if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                found.system.append(f"{inner}/" if kind == "folder" else inner)
            elif kind == "file":
                is_image = os.path.splitext(inner)[1].lower() in SUFFIXES
                (found.images if is_image else found.others).append(inner)
            elif kind == "special":
                found.unread.append(f"{inner} (neither file nor folder)")
            elif entry.is_symlink():
                links.append((inner, os.path.realpath(entry.path)))
            else:
                real.append((inner, os.path.join(target, entry.name)))
    found.images.sort()
    found.others.sort()
    return found


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "special"]:
    """Pipes, sockets and devices are special: to read them may take for ever.

    A link to nothing, or to where nobody may look, is a file that cannot be read.
    """
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return "file" if stat.S_ISREG(entry.stat().st_mode) else "special"
    except OSError:
        return "file"


def _advice(ignored: list[str]) -> str:
    """What to do about a folder that has no image but these files."""
    for suffixes, words in (
        ((".tar",), "name tars in subfolders by a pattern such as 'FOLDER/*/*.tar'"),
        (ARCHIVES, "unpack the archives first (a .tar.gz to a .tar will do)"),
        ((".npz",), "name an .npz itself"),
        ((".parquet", ".arrow"), "write the images of the tables to tars or folders"),
        (
            (".avif", ".heic", ".jp2", ".jxl", ".svg"),
            "convert the images to one of these kinds",
        ),
    ):
        if any(name.lower().endswith(suffixes) for name in ignored):
            return words
    return "check the path"


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
