"""Latents in the folder that LightningDiT extracts and trains on, both ways.

Files of safetensors with `latents`, `latents_flip` (`[images, channels, height,
width]`) and `labels`, and `latents_stats.pt` with mean and deviation of each channel.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxtyping import Float32, Int
import numpy as np
from safetensors import safe_open, SafetensorError

from vtp_eqx.config import require
from vtp_eqx.data.latents import (
    cast,
    check_complete,
    file_records,
    LatentCache,
    LatentIndex,
    Latents,
    ShardRecord,
    squared_error,
    statistics_of,
    Views,
)
from vtp_eqx.tensor_files import TorchFile, write_tensors, write_torch_file


STATISTICS_FILE = "latents_stats.pt"
VIEWS = ("latents", "latents_flip")
LABELS = "labels"
SUFFIX = ".safetensors"
_REAL, _WHOLE = {"F32", "F16", "BF16"}, {"I64", "I32", "I16", "I8", "U8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedShard:
    """One file of latents."""

    path: Path
    count: int

    @functools.cached_property
    def file(self) -> Any:
        """The open file."""
        return _open(self.path)

    def read(
        self, places: Int[np.ndarray, " num"], views: Int[np.ndarray, " num"]
    ) -> Latents:
        """The raw latents of one view of each of some images."""
        slices = [self.file.get_slice(name) for name in VIEWS]
        found = [
            slices[view][place : place + 1]
            for place, view in zip(places.tolist(), views.tolist(), strict=True)
        ]
        return np.moveaxis(np.concatenate(found).astype(np.float32), 1, -1)


def open_published_latents(folder: Path, index: LatentIndex | None) -> LatentCache:
    """The latents in a folder that LightningDiT, or this library for it, extracted.

    A `ValueError` names a file that is cut short or has other tensors. Without an
    `index` of ours, the tokenizer they belong to is not known.
    """
    if index is not None:
        check_complete(folder, index)
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    require(
        bool(paths),
        f"A folder of latents has an index.json or files ending in {SUFFIX}; got "
        f"{folder}: check the path.",
    )
    shards, labels, shapes = [], [], set()
    for path in paths:
        file = _open(path)
        names = {*file.keys()}
        require(
            names >= {*VIEWS, LABELS},
            f"A file of latents has {', '.join((*VIEWS, LABELS))}; got "
            f"{sorted(names)} in {path}: remove it from the folder, or extract again.",
        )
        kinds = {name: file.get_slice(name).get_dtype() for name in (*VIEWS, LABELS)}
        require(
            kinds.pop(LABELS) in _WHOLE and {*kinds.values()} <= _REAL,
            f"Latents are floats and labels whole numbers; got {kinds} and labels "
            f"{file.get_slice(LABELS).get_dtype()} in {path}: extract again.",
        )
        labels.append(file.get_tensor(LABELS).astype(np.int64))
        found = {tuple(file.get_slice(name).get_shape()) for name in VIEWS}
        count, *shape = next(iter(found)) or (0,)
        require(
            len(found) == 1 and len(shape) == 3 and labels[-1].shape == (count,),
            f"`latents` and `latents_flip` are [labels, channels, height, width]; got "
            f"{sorted(found)} for labels {labels[-1].shape} in {path}: extract again.",
        )
        shapes.add(tuple(shape))
        if count:
            shards.append(PublishedShard(path=path, count=count))
    require(
        len(shapes) == 1 and bool(shards),
        f"All latents of a folder have one shape; got {sorted(shapes)} in {folder}: "
        "keep those of one extraction.",
    )
    channels, height, width = next(iter(shapes))
    if index is None:
        mean, std = read_published_statistics(folder / STATISTICS_FILE, channels)
        known: dict[str, Any] = {"mean": mean, "std": std}
    else:
        known = statistics_of(index)
    return LatentCache(
        shards=tuple(shards),
        labels=np.concatenate(labels),
        shape=(height, width, channels),
        num_views=len(VIEWS),
        **known,
    )


def write_published_shard(
    folder: Path,
    number: int,
    latents: Views,
    labels: Int[np.ndarray, " num"],
    dtype: str,
) -> ShardRecord:
    """Writes a file of latents and returns its record, which is still to be written."""
    stored = cast(latents, dtype)
    tensors = {
        name: np.moveaxis(stored[:, view], -1, 1) for view, name in enumerate(VIEWS)
    }
    name = f"latents_rank00_shard{number:05d}{SUFFIX}"
    write_tensors(folder / name, {**tensors, LABELS: labels.astype(np.int64)})
    return ShardRecord(
        count=len(latents),
        files=file_records(folder, [name]),
        squared_error=squared_error(latents, stored.astype(np.float32)),
    )


def write_published_statistics(
    path: Path,
    mean: Float32[np.ndarray, " channels"],
    std: Float32[np.ndarray, " channels"],
) -> None:
    """Writes mean and deviation as LightningDiT's loader reads them."""
    as_images = lambda array: array.reshape(1, -1, 1, 1)
    write_torch_file(path, {"mean": as_images(mean), "std": as_images(std)})


def read_published_statistics(
    path: Path, channels: int
) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]]:
    """Mean and deviation of each channel from a file of LightningDiT."""
    require(
        path.is_file(),
        f"Latents of LightningDiT come with their statistics; got no {path}: let its "
        "loader write them, or extract the latents again.",
    )
    with TorchFile(path) as file:
        tensors = file.tensors()
        require(
            tensors.keys() >= {"mean", "std"},
            f"Statistics of latents are `mean` and `std`; got {sorted(tensors)} in "
            f"{path}: extract the latents again.",
        )
        mean, std = (
            file.read(tensors[name], name).astype(np.float32).reshape(-1)
            for name in ("mean", "std")
        )
    require(
        mean.shape == std.shape == (channels,)
        and bool(np.isfinite([mean, std]).all() and (std > 0).all()),
        f"Statistics have a mean and a positive deviation of each of {channels} "
        f"channels; got {mean.shape} and {std.shape} in {path}: extract again.",
    )
    return mean, std


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "np")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"The shard {path} must be a whole file of safetensors; got "
            f"{path.stat().st_size} bytes ({error}): copy or extract it again."
        ) from error
