"""A folder of samples: `000000.png`, `000001.png`, ... beside their `samples.json`.

Each image appears whole or not at all, so that a folder tells what is still missing.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from pathlib import Path
import zipfile

from jaxtyping import Int, UInt8
import numpy as np
from PIL import Image

from vtp_eqx.config import changed_fields, require
from vtp_eqx.data.images import SUFFIXES
from vtp_eqx.evaluation.sample_record import (
    ARCHIVE,
    read_sample_record,
    RECORD_FILE,
    SampleRecord,
)
from vtp_eqx.files import atomic_path
from vtp_eqx.models.arrays import arrays_hash


_DATE = (1980, 1, 1, 0, 0, 0)  # of members: equal samples are equal files


def image_path(folder: Path, index: int) -> Path:
    """Where image `index` lies."""
    return folder / f"{index:06d}.png"


def labels_hash(labels: Int[np.ndarray, " count"]) -> str:
    """Sixteen hexadecimal digits that name the classes of samples, in order."""
    return arrays_hash({"labels": labels.astype(np.int64)})


def check_record_unchanged(
    folder: Path, record: SampleRecord, labels: Int[np.ndarray, " count"]
) -> None:
    """A `ValueError` where `folder` has samples that `record` does not describe.

    More of the same are asked for with a larger `num_samples`.
    """
    is_begun = (folder / RECORD_FILE).exists()
    if is_begun:
        before = read_sample_record(folder)
        count = before.num_samples
        require(
            count <= record.num_samples,
            f"`num_samples` ({record.num_samples}) must be those that {folder} was "
            f"begun with ({count}), or more: raise it, or choose another folder.",
        )
        first = dataclasses.replace(
            record, num_samples=count, labels_hash=labels_hash(labels[:count]),
            prompts=record.prompts[:count],
        )  # fmt: skip
        changed = changed_fields(before, first)
        require(
            not changed,
            f"`{'`, `'.join(changed)}` must be what {folder} was begun with (its "
            f"{RECORD_FILE} tells): use that, or choose another folder.",
        )
    samples = range(record.num_samples if is_begun else 0)
    names = {image_path(folder, index).name for index in samples}
    others = sorted(path.name for path in _images(folder) if path.name not in names)
    require(
        not others,
        f"`folder` ({folder}, with {others[:1]}) must have no images but the samples "
        f"of its {RECORD_FILE}: choose another, or move them away.",
    )


def missing_groups(folder: Path, num_samples: int, group_size: int) -> list[int]:
    """The groups of `group_size` samples of which an image is missing, in order."""
    present = {path.name for path in _images(folder)}
    return [
        start // group_size
        for start in range(0, num_samples, group_size)
        if any(
            image_path(folder, index).name not in present
            for index in range(start, min(start + group_size, num_samples))
        )
    ]


def read_classes(path: Path) -> Int[np.ndarray, " count"]:
    """The classes in a text file, whole numbers one a line."""
    words = path.read_text(encoding="utf-8-sig").split()
    wrong = [word for word in words if not word.isdecimal()]
    require(
        bool(words) and not wrong,
        f"`classes_file` ({path}, with {wrong[:1]}) must have whole numbers, one a "
        "line: correct it.",
    )
    return np.array([*map(int, words)], np.int64)


def write_image(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes one image as PNG."""
    with atomic_path(path) as unfinished:
        Image.fromarray(image).save(unfinished, format="PNG")


def read_images(folder: Path, indices: Iterable[int]) -> list[np.ndarray]:
    """Images of a folder of samples, as bytes."""
    images = []
    for index in indices:
        with Image.open(image_path(folder, index)) as image:
            images.append(np.asarray(image))
    return images


def write_archive(folder: Path, labels: Sequence[int] | np.ndarray) -> Path:
    """Writes the samples of `folder`, all of them there, as one `samples.npz`.

    `arr_0` is uint8 `[count, height, width, 3]`, as ADM's evaluator reads it, and
    `arr_1` the classes. One image is in memory at a time.
    """
    path = folder / ARCHIVE
    (first,) = read_images(folder, [0])
    shape = (len(labels), *first.shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        atomic_path(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive,
    ):
        member = zipfile.ZipInfo("arr_0.npy", _DATE)
        with archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for index in range(len(labels)):
                (image,) = read_images(folder, [index])
                file.write(image.tobytes())
        member = zipfile.ZipInfo("arr_1.npy", _DATE)
        with archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.asarray(labels, np.int64))
    return path


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
