"""Random-access sources of examples on disk, and the same examples in memory.

An example is a flat dict: `image` (uint8 `[H, W, 3]`), and where the data set has them
`caption` (str), `label` (int), `id` (int) and attributes by name.
"""

from collections.abc import Callable, Mapping
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from vtp_eqx.config import first_sentence, require
from vtp_eqx.data.example_texts import clean_caption
from vtp_eqx.data.folders import ARCHIVES, FolderSource, list_folder
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.loader import Batch, Source
from vtp_eqx.data.tar_paths import tars_in
from vtp_eqx.data.tars import TarSource
from vtp_eqx.file_kinds import describe_file, open_npz, UnreadableNpzError
from vtp_eqx.files import require_local, write_npz


class TfdsSource:
    """One split of a data set that TensorFlow Datasets has prepared as ArrayRecord.

    `source[row]` is an example and `len(source)` their number; in `source.encoded(row)`
    the image is the bytes of its file. Both raise `images.UnreadableImageError` where
    record or image are damaged. Rows are in the order on disk, which is the order of
    making only where the data set disables shuffling (as the scenes do). Can be
    pickled, for worker processes.
    """

    def __init__(self, folder: str | Path, split: str):
        """`folder` holds `dataset_info.json`; `split` as in `"train[:50%]"`."""
        import tensorflow_datasets as tfds  # takes seconds

        self.folder = Path(folder)
        self.split = split
        require(
            is_prepared(self.folder),
            "A prepared data set has a dataset_info.json; "
            f"found none in {self.folder}: prepare it, or name its version's folder.",
        )
        # `Any`, because the decorator of this function hides its arguments.
        builder_at: Any = tfds.builder_from_directory
        try:
            builder = builder_at(self.folder)
            features = builder.info.features
        except Exception as error:  # its parsers have exceptions of their own
            raise ValueError(
                f"`data` ({self.folder}) has a dataset_info.json that TensorFlow "
                f"Datasets cannot read ({first_sentence(error)}): prepare it again; of "
                "a set that another library saved, write the images to a folder."
            ) from error
        require(
            "image" in features and isinstance(features["image"], tfds.features.Image),
            f"Examples have an encoded `image`; got {sorted(features)} in "
            f"{self.folder}: prepare it with `tfds.features.Image`.",
        )
        # What TFDS would decode depends on what is installed, and has 1 to 4 channels.
        as_bytes = {"image": tfds.decode.SkipDecoding()}
        try:
            self._rows = builder.as_data_source(split, decoders=as_bytes)
        except Exception as error:  # no such split, no such files, or of another format
            raise ValueError(
                f"`split` ({split!r} of {self.folder}) must be of a data set that is "
                f"prepared as ArrayRecord; it has {sorted(builder.info.splits)} "
                f"({first_sentence(error)}): name one, or prepare it with "
                "`file_format='array_record'`."
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = self.encoded(row)
        example.pop("repair", None)  # all examples have the same fields
        return {**example, "image": decode_image(example["image"], self.name(row))}

    def encoded(self, row: int) -> dict[str, Any]:
        """The same, with `image` as the bytes of its file."""
        try:
            found = self._rows[row]
        except RuntimeError as error:  # of the reader, where its file is damaged
            reason = str(error).partition(";")[0]
            raise UnreadableImageError(self.name(row), reason) from error
        example: dict[str, Any] = {"id": row}
        for name, value in found.items():
            is_text = isinstance(value, bytes) and name != "image"
            # Of any encoding: who does not use a text shall not stumble over it.
            example[name] = value.decode("utf-8", "replace") if is_text else value
        caption = found.get("caption")
        if isinstance(caption, bytes) and example["caption"].encode() != caption:
            example["repair"] = clean_caption(caption)[1]
        return example

    def name(self, row: int) -> str:
        """The name of `row`, for messages."""
        return f"{self.folder}:{self.split}[{row}]"

    @property
    def fingerprint(self) -> str:
        """Changes whenever the split or anything about the data set does."""
        information = (self.folder / "dataset_info.json").read_bytes()
        digest = hashlib.sha256(information + b"\0" + self.split.encode())
        return digest.hexdigest()[:12]


class ArraySource:
    """Examples that are in memory, one array for each field, all equally long."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """`arrays` holds at least `image`, uint8 `[count, height, width, 3]`."""
        images = arrays["image"]
        require(
            images.dtype == np.uint8
            and images.ndim == 4
            and images.shape[3] == 3
            and 0 not in images.shape[1:3],
            "Images in memory are uint8 [count, height, width, 3]; got "
            f"{images.dtype} of shape {images.shape}: convert them.",
        )
        # Of a single number, which has no length, nothing.
        lengths = {name: [*array.shape[:1]] for name, array in arrays.items()}
        require(
            len(images) > 0
            and all(found == [len(images)] for found in lengths.values()),
            f"Images in memory are 1 or more, with as many of all else; got {lengths}: "
            "make the arrays equally long.",
        )
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(self.arrays["image"])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"id": row, **{name: rows[row] for name, rows in self.arrays.items()}}

    @property
    def fingerprint(self) -> str:
        """Changes whenever an array does."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]


def open_source(
    path: str | Path,
    split: str = "",
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Source:
    """The source at `path`: tars, a folder of images, or a prepared data set.

    A folder that TensorFlow Datasets prepared (it takes a `split`, or is given as
    `FOLDER:SPLIT`); a tar, a folder with tars in it, or a pattern of tars such as
    `shards/{00000..00099}.tar` (see `TarSource`); any other folder (image files, see
    `FolderSource`); or an `.npz` of images, named `arr_0` and `arr_1` (labels) as ADM
    publishes them. `progress(done, total)` is called when
    the index of a tar is there.

    A `ValueError` where `path` is none of these, or where it could be two: a folder of
    tars and of images.
    """
    require_local(path, "data")
    folder, own_split = split_of(path)
    if is_prepared(folder):
        split = own_split or split
        require(
            bool(split),
            f"A data set of TensorFlow Datasets has splits; got none for {path}: "
            f"name one, as in '{folder}:validation'.",
        )
        return TfdsSource(folder, split)
    require(
        not split,
        f"Only data sets of TensorFlow Datasets have splits; got {split!r} for {path}: "
        "leave it out.",
    )
    path = Path(path)
    if path.suffix == ".npz" and not path.is_dir():
        return _open_npz(path)
    if tars := tars_in(path):
        images = list_folder(path).images
        require(
            not images,
            f"`data` ({path}) could be {len(tars)} tars (such as {tars[0].name}) or "
            f"{len(images)} image files (such as {images[:1]}): name the tars as "
            f"'{path}/*.tar', or move them elsewhere to read the images.",
        )
    if tars or path.suffix == ".tar":
        return TarSource(path, progress=progress)
    require(
        not path.name.lower().endswith(ARCHIVES) or path.is_dir(),
        f"`data` ({path}) is an archive of which no file can be read alone: unpack it, "
        "to a .tar or to a folder, and name that.",
    )
    require(
        not path.is_file(),
        f"`data` ({path}) must be a folder of images, a prepared data set, tars ending "
        f"in .tar or an .npz; got {describe_file(path)}: name one of these.",
    )
    return FolderSource(path)


def _open_npz(path: Path) -> ArraySource:
    fields = {"arr_0": "image", "arr_1": "label"}
    try:
        with open_npz(path) as content:
            names = sorted(content)
            arrays = {fields[name]: content[name] for name in names if name in fields}
    except UnreadableNpzError as error:
        raise ValueError(
            f"An .npz of images is a whole file; got {path} ({error}): check the path, "
            "or copy it again."
        ) from error
    require(
        "image" in arrays,
        f"An .npz of images holds them as `arr_0`; got {names} in {path}: name another "
        "file.",
    )
    return ArraySource(arrays)


def is_prepared(path: str | Path) -> bool:
    """Whether TensorFlow Datasets prepared what lies in that folder."""
    return (Path(path) / "dataset_info.json").is_file()


def split_of(path: str | Path) -> tuple[str, str]:
    """Folder and split of `FOLDER:SPLIT` where that folder is a prepared one.

    Any other path is itself, without a split: its name may have a colon, as splits do
    (`train[:50%]`).
    """
    text = str(path)
    for place, letter in enumerate(text):
        if letter == ":" and is_prepared(text[:place]):
            return text[:place], text[place + 1 :]
    return text, ""


def load_arrays(source: TfdsSource) -> Batch:
    """All examples of `source`, one array for each field.

    The first call writes them beside the data; later ones read that file. A file that
    does not belong to the data any more, or is damaged, is written anew.
    """
    path = source.folder / f"arrays-{source.fingerprint}.npz"
    try:
        with open_npz(path) as content:
            return dict(content)
    except UnreadableNpzError:
        examples = [source[row] for row in range(len(source))]
    arrays = {
        name: np.stack([np.asarray(example[name]) for example in examples])
        for name in examples[0]
    }
    write_npz(path, **arrays)
    return arrays
