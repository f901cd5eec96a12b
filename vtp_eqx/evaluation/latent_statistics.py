"""Mean and deviation of a tokenizer's raw latents over its training set, by channel.

Sums of latents and of their squares are kept as fractions, without any rounding, and
every image is encoded by itself. So neither the order of the images nor how they are
split into batches, over devices or over processes changes a bit of the statistics, and
neither does a run that was killed and continued.
"""

from collections.abc import Callable
import dataclasses
from fractions import Fraction
import functools
import hashlib
import json
import math
import operator
from pathlib import Path
import tempfile
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float32, Float64
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.loader import Source
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.images import Images, read_blocks, read_square
from vtp_eqx.files import write_text
from vtp_eqx.mesh import data_mesh, gather_texts, local_mesh, REPLICATED
from vtp_eqx.models.arrays import weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


BLOCK_IMAGES = 4096  # ours: images that a file has the sums of; what a kill may cost
DEVICE_IMAGES = 32  # ours: images that a device is given at once
SLICE_BITS, SLICE_ROWS = 38, 4096  # so many rows of so many bits: 50 of float64's 53


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSums:
    """Exact sums over the latents of some images, by channel; sums of parts add."""

    num_images: int = 0
    num_skipped: int = 0  # images that could not be read
    num_latents: int = 0  # vectors of channels: images times positions
    sums: tuple[Fraction, ...] = ()
    squares: tuple[Fraction, ...] = ()  # sums of squares

    @classmethod
    def of(
        cls, latents: Float32[np.ndarray, "num rows columns channels"]
    ) -> "LatentSums":
        """The sums over an array; a `ValueError` where a value is not finite."""
        vectors = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
        require(
            bool(np.isfinite(vectors).all()),
            f"`latents` ({int((~np.isfinite(vectors)).sum())} values of NaN or "
            "infinity) must be finite: look at the images and weights they come from.",
        )
        return cls(
            num_images=len(latents),
            num_latents=len(vectors),
            sums=exact_sums(vectors),
            # 24 bits squared are 48, which float64 holds.
            squares=exact_sums(vectors**2),
        )

    def __add__(self, other: "LatentSums") -> "LatentSums":
        """The sums over both sets of images."""
        if not (self.sums and other.sums):
            empty, full = (self, other) if other.sums else (other, self)
            num_skipped = empty.num_skipped + full.num_skipped
            return dataclasses.replace(full, num_skipped=num_skipped)
        add = lambda ours, theirs: tuple(map(operator.add, ours, theirs))
        return LatentSums(
            num_images=self.num_images + other.num_images,
            num_skipped=self.num_skipped + other.num_skipped,
            num_latents=self.num_latents + other.num_latents,
            sums=add(self.sums, other.sums),
            squares=add(self.squares, other.squares),
        )

    def statistics(
        self,
    ) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]]:
        """Mean and deviation of each channel, rounded only here."""
        require(
            self.num_latents > 0,
            f"`num_images` ({self.num_images}) must be positive, and "
            f"{self.num_skipped} could not be read: check the path of the images.",
        )
        means = [total / self.num_latents for total in self.sums]
        variances = [
            square / self.num_latents - mean**2
            for square, mean in zip(self.squares, means, strict=True)
        ]
        deviations = [math.sqrt(variance) for variance in variances]
        return np.array(means, np.float32), np.array(deviations, np.float32)

    def coverage(self, num_images: int) -> str:
        """How many of `num_images` training images were measured, for a card."""
        found = f"{self.num_images:,} of {num_images:,} training images"
        if self.num_images + self.num_skipped < num_images:
            found += ", evenly spread"
        return found + (f", {self.num_skipped:,} unreadable" * bool(self.num_skipped))

    def as_json(self) -> str:
        """Text that `from_json` reads back, equal to the last bit."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "LatentSums":
        """The sums that `as_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("sums", "squares"):
            fields[name] = tuple(map(Fraction, fields[name]))
        return cls(**fields)


def exact_sums(values: Float64[np.ndarray, "rows columns"]) -> tuple[Fraction, ...]:
    """The sum of each column, without rounding; of float32 values or their squares.

    Each value is cut into slices of `SLICE_BITS` bits from the largest one of its
    column down; the slices are whole numbers, whose sums are exact in any order.
    """
    totals = [Fraction(0)] * values.shape[1]
    for start in range(0, len(values), SLICE_ROWS):
        rest = values[start : start + SLICE_ROWS]
        _, exponents = np.frexp(np.abs(rest).max(axis=0))
        while rest.any():
            exponents = exponents - SLICE_BITS
            whole = np.rint(rest * np.ldexp(1.0, -exponents))
            rest = rest - whole * np.ldexp(1.0, exponents)
            totals = [
                total + Fraction(int(count)) * Fraction(2) ** int(exponent)
                for total, count, exponent in zip(
                    totals, whole.sum(axis=0), exponents, strict=True
                )
            ]
    return tuple(totals)


def measure_latents(
    tokenizer: Tokenizer,
    source: Source,
    folder: Path | None = None,
    *,
    mesh: Mesh | None = None,
    max_images: int | None = None,
    num_threads: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tokenizer, LatentSums]:
    """`tokenizer` with the statistics of its raw latents over `source`, and their sums.

    Called by all processes of a run, each of which encodes a part on its own devices of
    `mesh` (all where `None`). Each image is cropped as for training a generator, by
    `CenterCrop`; of more than `max_images`, so many are taken, evenly spread. Where
    there is a `folder`, it gets a file of sums for every `BLOCK_IMAGES` images, from
    which a call that was killed continues. Images that cannot be read are left out and
    counted; a `ValueError` where none can be, or where a latent is not finite.
    `progress(done, total)` counts the images of this process.
    """
    mesh = data_mesh() if mesh is None else mesh
    limit = None if max_images is None else min(max_images, len(source))
    crop = CenterCrop(tokenizer.config.image_size)
    images = Images(source=source, crop=crop, limit=limit)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            own = _own_sums(
                tokenizer, images, folder or Path(scratch), local_mesh(mesh),
                num_threads, progress,
            )  # fmt: skip
    except Exception:
        gather_texts("")  # or else the others would wait for this process
        raise
    texts = gather_texts(own.as_json())
    if not all(texts):
        raise RuntimeError(
            f"{texts.count('')} of {len(texts)} processes could not measure their part "
            "of the latents: see what they printed."
        )
    total = sum(map(LatentSums.from_json, texts), LatentSums())
    return tokenizer.with_statistics(*total.statistics()), total


def _own_sums(
    tokenizer: Tokenizer,
    images: Images,
    folder: Path,
    mesh: Mesh,
    num_threads: int,
    progress: Callable[[int, int], None],
) -> LatentSums:
    """The sums over the blocks of images that are this process's."""
    rows = images.rows
    of = {"tokenizer": weights_hash(tokenizer), "images": images.description}
    text = json.dumps({**of, "block": BLOCK_IMAGES}, sort_keys=True)
    folder = folder / f"latents-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    index, count = jax.process_index(), jax.process_count()
    blocks = {
        folder / f"images-{start:08d}.json": rows[start : start + BLOCK_IMAGES]
        for start in range(index * BLOCK_IMAGES, len(rows), count * BLOCK_IMAGES)
    }
    found = {path: _read_sums(path) for path in blocks}
    finished = {path for path, sums in found.items() if sums is not None}
    batch_size = DEVICE_IMAGES * mesh.devices.size
    if len(finished) < len(blocks):
        tokenizer = jax.device_put(tokenizer, NamedSharding(mesh, REPLICATED))
    for path, batches in read_blocks(
        functools.partial(read_square, images), blocks,
        batch_size=batch_size, num_threads=num_threads,
        finished=finished, report=progress,
    ):  # fmt: skip
        sums = LatentSums()
        for batch in batches:
            squares = [one.image for one in batch if one.image is not None]
            sums += LatentSums(num_skipped=len(batch) - len(squares))
            if squares:
                latents = in_batches(
                    Tokenizer.encode, tokenizer, np.stack(squares),
                    batch_size=batch_size, mesh=mesh, one_at_a_time=True,
                )  # fmt: skip
                sums += LatentSums.of(latents)
        write_text(path, sums.as_json())
        found[path] = sums
    return sum((sums for sums in found.values() if sums), LatentSums())


def _read_sums(path: Path) -> LatentSums | None:
    try:
        return LatentSums.from_json(path.read_text())
    except (OSError, ValueError, TypeError, KeyError):
        return None
