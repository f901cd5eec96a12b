"""The latents of a folder that this library extracted, opened and checked."""

from collections.abc import Iterator
import contextlib
from pathlib import Path

from jaxtyping import Int32, Shaped
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.latents import (
    check_complete,
    LatentCache,
    LatentIndex,
    NpyShard,
    ShardRecord,
    statistics_of,
)
from vtp_eqx.file_kinds import NPZ_ERRORS, npz_fault


_DTYPES = (np.float32, np.float16, np.uint8)


def open_npy_latents(folder: Path, index: LatentIndex) -> LatentCache:
    """The latents that this library extracted into `folder`, with its index.

    A `ValueError` names a shard that is missing, cut short or of something else, and an
    extraction that has not ended.
    """
    check_complete(folder, index)
    opened = [_open_shard(folder, record) for record in index.shards]
    shapes = sorted({shard.array.shape[1:] for shard, _ in opened})
    captions = None
    if index.text_hash:
        captions = _open_captions(folder, index)
    views, *shape, channels = shapes[0]
    known = statistics_of(index)
    require(
        len(shapes) == 1
        and views == len(index.views)
        and known["mean"].shape == known["std"].shape == (channels,),
        f"All latents of a folder have {len(index.views)} views and statistics of each "
        f"channel; got latents {shapes}, {len(index.mean)} means and {len(index.std)} "
        f"deviations in {folder}: extract them again.",
    )
    return LatentCache(
        shards=tuple(shard for shard, _ in opened),
        labels=np.concatenate([labels for _, labels in opened]),
        shape=(*shape, channels),
        num_views=views,
        captions=captions,
        **known,
    )


def _open_captions(
    folder: Path, index: LatentIndex
) -> Int32[np.ndarray, "num context"]:
    """The ids of all captions, in the order of the images."""
    found = []
    for record in index.shards:
        names = [*record.files]
        require(
            len(names) == 3,
            f"A shard with captions has a file of them after two others; got {names} "
            f"in {folder}: extract the latents again.",
        )
        path = folder / names[2]
        with _whole_array("captions", path):
            found.append(np.load(path))
    shapes = [ids.shape for ids in found]
    require(
        all(ids.dtype == np.int32 and ids.ndim == 2 for ids in found)
        and len({ids.shape[1:] for ids in found}) == 1
        and [len(ids) for ids in found] == [record.count for record in index.shards],
        f"Captions are int32 [images, context] in every shard; got {shapes[:2]} in "
        f"{folder}: extract the latents again.",
    )
    return np.concatenate(found)


def _open_shard(
    folder: Path, record: ShardRecord
) -> tuple[NpyShard, Shaped[np.ndarray, " num"]]:
    """A shard and the labels of its images."""
    require(
        len(record.files) in (2, 3),
        f"A shard has a file of latents and one of examples; got {[*record.files]} in "
        f"{folder}: extract the latents again.",
    )
    path, examples, *_ = (folder / name for name in record.files)  # in this order
    shard = NpyShard(
        path=path, count=record.count, offset=record.offset, scale=record.scale
    )
    with _whole_array("shard", path):
        latents = shard.array
    with _whole_array("shard", examples):
        rows_and_labels = np.load(examples)
    count = record.count
    num_scaled = sum(latents.shape[-1:]) if latents.dtype == np.uint8 else 0
    require(
        latents.ndim == 5
        and min(latents.shape) > 0
        and latents.dtype in _DTYPES
        and len(latents) == count > 0
        and rows_and_labels.shape == (count, 2)
        and np.issubdtype(rows_and_labels.dtype, np.integer)
        and len(record.offset) == len(record.scale) == num_scaled,
        f"The shard {path} must hold latents [{count}, views, height, width, channels] "
        f"and as many rows and labels; got {latents.dtype} {latents.shape} and "
        f"{rows_and_labels.dtype} {rows_and_labels.shape}: extract the latents again.",
    )
    return shard, rows_and_labels[:, 1]


@contextlib.contextmanager
def _whole_array(kind: str, path: Path) -> Iterator[None]:
    """What is wrong with the file of a `kind`, where reading it fails inside."""
    try:
        yield
    except NPZ_ERRORS as error:
        raise ValueError(
            f"The {kind} {path} must be a whole array; got {npz_fault(path, error)}: "
            "run the same extraction again, which makes it anew."
        ) from error
