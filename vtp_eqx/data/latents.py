"""Latents on disk: shards of arrays, and an index of what they are.

A folder of latents has, for each shard, `latents-*.npy` (`[images, views, height,
width, channels]`, mapped into memory), `examples-*.npy` (row in the source and label of
each image), where asked for `captions-*.npy` (the ids of its caption, all 0 where it
has none), and `shard-*.json`, which appears last; and `index.json`, which names what
the latents are of. Everything is a function of source and tokenizer alone.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float32, Int, Int32, Shaped
import numpy as np

from vtp_eqx.config import first_sentence, from_dict, require
from vtp_eqx.files import atomic_path, write_text


FORMAT = "vtp_eqx latents 1"
INDEX = "index.json"
LEVELS = 255  # of uint8

Latents = Float32[np.ndarray, "num height width channels"]
Views = Float32[np.ndarray, "num views height width channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What `shard-*.json` says about a finished shard.

    `files` are its files with size and checksum; `offset` and `scale` undo `uint8`;
    `squared_error` is what storing cost, summed by channel; `sums` are exact, of the
    first view, in the words of `evaluation.latent_statistics`.
    """

    count: int  # images
    num_skipped: int = 0  # that could not be read
    files: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    squared_error: tuple[float, ...] = ()
    sums: str = ""

    def write(self, path: Path) -> None:
        """Writes the record, which makes the shard a finished one."""
        write_text(path, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "ShardRecord | None":
        """The record of a shard, if it is finished and its files have their sizes."""
        try:
            record = from_dict(cls, json.loads(path.read_text()))
            check_sizes(path.parent, record)
        except (OSError, ValueError, RecursionError):
            return None
        return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentIndex:
    """What `index.json` says: the source, the tokenizer and the shards.

    Until all shards are there, `latents_hash` is "" and `shards` is empty.
    """

    encoder_hash: str  # of what made the raw latents
    source: str  # fingerprint of the images
    crop: str
    views: tuple[str, ...]
    view_settings: Mapping[str, Any]  # what random views depend on
    dtype: str
    layout: str
    shard_images: int
    limit: int | None
    text_hash: str = ""  # of the text tower that captions have ids for; "": none
    class_names: tuple[str, ...] = ()
    changed: str = ""  # of the images' files, see `data.changes`; "" if not known
    latents_hash: str = ""  # of the tokenizer with these statistics
    num_images: int = 0
    num_skipped: int = 0
    rms_error: float = 0.0  # of what is stored, in deviations of a channel
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    shards: tuple[ShardRecord, ...] = ()
    format: str = FORMAT

    def write(self, folder: Path) -> None:
        """Writes `index.json`."""
        write_text(folder / INDEX, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> "LatentIndex | None":
        """That of a folder, `None` where it has none; damaged: a `ValueError`."""
        path = folder / INDEX
        if not path.exists():
            return None
        try:
            found = from_dict(cls, json.loads(path.read_text()))
            require(found.format == FORMAT, f"another format than {FORMAT!r}")
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"`folder` ({folder}) has an {INDEX} that is damaged or of something "
                f"else ({first_sentence(error)}): remove it, and extract the latents "
                "again."
            ) from error
        return found


@runtime_checkable
class LatentShard(Protocol):
    """Raw latents of consecutive images in one file."""

    @property
    def path(self) -> Path: ...

    @property
    def count(self) -> int: ...

    def read(
        self, places: Int[np.ndarray, " num"], views: Int[np.ndarray, " num"]
    ) -> Latents: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpyShard:
    """A shard as this library writes it."""

    path: Path
    count: int
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @functools.cached_property
    def array(self) -> Shaped[np.ndarray, "num views height width channels"]:
        """As it is stored, mapped into memory."""
        return np.load(self.path, mmap_mode="r")

    def read(
        self, places: Int[np.ndarray, " num"], views: Int[np.ndarray, " num"]
    ) -> Latents:
        """The raw latents of one view of each of some images."""
        stored = self.array[places, views]
        if self.scale:
            return dequantize(stored, self.offset, self.scale)
        return np.asarray(stored, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentCache:
    """All latents of a folder, of any layout, by image and view.

    `mean` and `std` are of each channel over all images; `latents_hash` is that of the
    tokenizer that has these statistics, or "" where it is not known.
    """

    shards: tuple[LatentShard, ...]
    labels: Int[np.ndarray, " num"]  # -1 where an image has none
    shape: tuple[int, int, int]  # height, width, channels
    num_views: int
    mean: Float32[np.ndarray, " channels"]
    std: Float32[np.ndarray, " channels"]
    latents_hash: str = ""
    class_names: tuple[str, ...] = ()
    text_hash: str = ""  # of the text tower that captions have ids for
    captions: Int32[np.ndarray, "num context"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def read(
        self, rows: Int[np.ndarray, " num"], views: Int[np.ndarray, " num"]
    ) -> Latents:
        """The raw latents of one view of each of some images.

        A `ValueError` where one is not finite; it names the shard.
        """
        found = np.empty((len(rows), *self.shape), np.float32)
        ends = np.cumsum([shard.count for shard in self.shards])
        numbers = np.searchsorted(ends, rows, side="right")
        for number in np.unique(numbers).tolist():
            shard, inside = self.shards[number], numbers == number
            places = rows[inside] - (ends[number] - shard.count)
            latents = shard.read(places, views[inside])
            bad = ~np.isfinite(latents).all(axis=(1, 2, 3))
            require(
                not bad.any(),
                f"Latents must be finite; got NaN or infinity in {shard.path}, image "
                f"{places[bad][:1]}: look at the tokenizer, and extract them again.",
            )
            found[inside] = latents
        return found

    def check_labels(self, num_classes: int) -> None:
        """A `ValueError` unless every image has a class from 0 to `num_classes - 1`."""
        low, high = int(self.labels.min()), int(self.labels.max())
        outside = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
        require(
            not len(outside),
            f"`num_classes` ({num_classes}) must be above every label, and each image "
            f"has one; got labels from {low} (-1: none) to {high}, {len(outside)} of "
            f"{len(self)} outside, the first of image {outside[:1]}: change the "
            "number, or take latents of labeled images.",
        )


def statistics_of(index: LatentIndex) -> dict[str, Any]:
    """The mean, deviation and hash that an index holds, as fields of `LatentCache`."""
    return {
        "mean": np.array(index.mean, np.float32),
        "std": np.array(index.std, np.float32),
        "latents_hash": index.latents_hash,
        "class_names": index.class_names,
        "text_hash": index.text_hash,
    }


def check_complete(folder: Path, index: LatentIndex) -> None:
    """A `ValueError` unless all shards of `index` are in `folder`, by their sizes."""
    require(
        bool(index.shards),
        f"`folder` ({folder}) has latents that are not complete: run the same "
        "extraction again, which continues it.",
    )
    for record in index.shards:
        check_sizes(folder, record)


def check_sizes(folder: Path, record: ShardRecord) -> None:
    """A `ValueError` unless the files of a shard have the sizes they were given."""
    for name, (size, _) in record.files.items():
        require(
            name == Path(name).name and "\0" not in name,
            f"A shard's files lie beside its record; got {name[:80]!r} in {folder}: "
            "remove the record, and run the same extraction again.",
        )
        path = folder / name
        got = path.stat().st_size if path.exists() else None
        require(
            got == size,
            f"The shard {path} must have {size} bytes; got "
            f"{'no such file' if got is None else got}: run the same extraction again, "
            "which makes it anew.",
        )


def check_checksums(folder: Path, index: LatentIndex) -> None:
    """A `ValueError` unless the files of all shards are as they were written."""
    check_complete(folder, index)
    for record in index.shards:
        for name, (_, checksum) in record.files.items():
            got = _checksum(folder / name)
            require(
                got == checksum,
                f"The shard {folder / name} must have the checksum {checksum}; got "
                f"{got}: remove it, and run the same extraction again.",
            )


def write_npy_shard(
    folder: Path,
    number: int,
    latents: Views,
    rows: Int[np.ndarray, " num"],
    labels: Int[np.ndarray, " num"],
    dtype: str,
    captions: Int32[np.ndarray, "num context"] | None = None,
) -> ShardRecord:
    """Writes a shard and returns its record, which is still to be written.

    `rows` are those of the source, and `labels` their classes or -1.
    """
    stored, offset, scale = latents, (), ()
    if dtype == "uint8":
        stored, offset, scale = quantize(latents)
        again = dequantize(stored, offset, scale)
    else:
        stored = cast(latents, dtype)
        again = stored.astype(np.float32)
    arrays = {
        f"latents-{number:05d}.npy": stored,
        f"examples-{number:05d}.npy": np.stack([rows, labels], axis=1),
    }
    if captions is not None:
        arrays[f"captions-{number:05d}.npy"] = captions
    for name, array in arrays.items():
        with atomic_path(folder / name) as unfinished, unfinished.open("wb") as file:
            np.save(file, array)
    return ShardRecord(
        count=len(latents),
        files=file_records(folder, arrays),
        offset=offset,
        scale=scale,
        squared_error=squared_error(latents, again),
    )


def file_records(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Size and checksum of some files."""
    return {
        name: ((folder / name).stat().st_size, _checksum(folder / name))
        for name in names
    }


def cast(latents: Views, dtype: str) -> Shaped[np.ndarray, "..."]:
    """`latents` as floats of a type; a `ValueError` where they do not fit into it."""
    with np.errstate(over="ignore"):
        stored = latents.astype(dtype)
    require(
        bool(np.isfinite(stored).all()),
        f"`dtype` ({dtype!r}) must hold latents up to "
        f"{np.abs(latents).max():.4g}: take 'float32'.",
    )
    return stored


def squared_error(latents: Views, again: Views) -> tuple[float, ...]:
    """The squared error of stored latents, summed by channel."""
    difference = again.astype(np.float64) - latents
    return tuple(np.sum(difference**2, axis=(0, 1, 2, 3)).tolist())


def quantize(
    latents: Views,
) -> tuple[Shaped[np.ndarray, "..."], tuple[float, ...], tuple[float, ...]]:
    """Levels 0 to 255 of each channel's range over a shard, its offset and scale."""
    low, high = latents.min(axis=(0, 1, 2, 3)), latents.max(axis=(0, 1, 2, 3))
    scale = (high - low) / np.float32(LEVELS)
    scale = np.where(scale > 0, scale, np.float32(1))
    levels = np.rint((latents - low) / scale).clip(0, LEVELS).astype(np.uint8)
    return levels, tuple(low.tolist()), tuple(scale.tolist())


def dequantize(
    levels: Shaped[np.ndarray, "*axes channels"],
    offset: Sequence[float],
    scale: Sequence[float],
) -> Float32[np.ndarray, "*axes channels"]:
    """The floats that `quantize` took, half a level off at most."""
    low, step = np.array(offset, np.float32), np.array(scale, np.float32)
    return low + step * levels.astype(np.float32)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
