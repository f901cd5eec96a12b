"""Batches of normalized latents, from a cache or encoded from images on demand."""

from collections.abc import Iterator, Sequence
import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int32, UInt8
import numpy as np

from vtp_eqx.config import DiTConfig, fit_dit, GenerateConfig, Precision, require
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.latent_batches import latent_batches
from vtp_eqx.data.latents import LatentCache
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import Encode, ExampleBatch, ExampleReader
from vtp_eqx.mesh import local_mesh, replicate, shard_batch
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import Batches
from vtp_eqx.runs.captions import text_reader
from vtp_eqx.training.generate import LatentBatch


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedBatches:
    """`batches(first)` yields this process's part of the batches of a cache.

    - `unconditional`: every image is of class 0.
    - `reader`: the tokenizer whose text tower reads captions, which then stand in
      place of classes, and the devices that it does so on.
    """

    cache: LatentCache
    batch_size: int
    seed: int
    unconditional: bool = False
    workers: int = 4
    reader: tuple[Tokenizer, Mesh] | None = None

    def __call__(self, first: int) -> Iterator[LatentBatch]:
        reader = self.reader and text_reader(*self.reader)
        for latents, given in latent_batches(
            self.cache, self.batch_size, seed=self.seed, start_step=first,
            shard=(jax.process_index(), jax.process_count()), num_threads=self.workers,
            captions=reader is not None,
        ):  # fmt: skip
            if reader is not None:
                yield LatentBatch(latents, reader(given))
                continue
            labels = np.zeros_like(given) if self.unconditional else given
            yield LatentBatch(latents, labels.astype(np.int32))


class EncodedBatches:
    """`batches(first)` yields batches of images that are encoded when they are needed.

    Each image is cropped as for a cache, mirrored half of the time, and encoded with
    the others of its batch: equal to a cache but for rounding. A batch is a function of
    (seed, step). `rows(batch)` are the rows of the source that it has.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: Source,
        config: GenerateConfig,
        mesh: Mesh,
        *,
        folder: Path,
        precision: Precision = "float32",
        unconditional: bool = False,
        workers: int = 8,
        encode: Encode | None = None,
    ):
        """`folder`: where bad examples are logged. `precision`: of the encoder.

        `encode`: captions to ids, for a generator of captions. Images are then not
        mirrored, because a caption may name left and right; those without a caption
        are skipped.
        """
        size = tokenizer.config.image_size
        reader = ExampleReader(
            source=source,
            sampler=make_sampler(source, config.batch_size, seed=config.seed),
            size=size,
            encode=encode,
            crop=CenterCrop(size),
            min_side=1,
        )
        self.images = Batches(reader=reader, folder=folder, workers=workers)
        self.rows = self.images.rows
        self.num_classes = 1 if unconditional else config.dit.num_classes
        self.seed, self.unconditional = config.seed, unconditional
        self.mesh = local_mesh(mesh)
        self.tokenizer = replicate(tokenizer.at_precision(precision), self.mesh)
        self.read_texts = None
        if encode is not None:
            self.read_texts = text_reader(tokenizer, mesh)

    def __call__(self, first: int) -> Iterator[LatentBatch]:
        sampler = self.images.reader.sampler
        positions = sampler.positions((jax.process_index(), jax.process_count()))
        for examples in self.images.examples(first):
            if self.read_texts is not None:
                assert examples.tokens is not None
                condition, images = self.read_texts(examples.tokens), examples.image
            else:
                drawn = examples.step * sampler.batch_size + positions
                turned = CounterRNG(self.seed, drawn).uniform("view") < 0.5
                mirrored = examples.image[:, :, ::-1]
                images = np.where(turned[:, None, None, None], mirrored, examples.image)
                condition = self._labels(examples)
            latents = _encode(self.tokenizer, shard_batch(images, self.mesh))
            yield LatentBatch(np.asarray(latents), condition)

    def _labels(self, examples: ExampleBatch) -> Int32[np.ndarray, " num"]:
        """The class of each image; a `ValueError` where it has none of the model's."""
        labels = examples.label
        labels = np.zeros_like(labels) if self.unconditional else labels
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        require(
            not len(wrong),
            f"Labels must be 0 to {self.num_classes - 1}, and each image has one; "
            f"{len(wrong)} of {len(labels)} do not fit in batch {examples.step}, "
            f"such as row {examples.row[wrong[:1]]} with {labels[wrong[:1]]} (-1: "
            "none): change `num_classes`, or take labeled images.",
        )
        return labels.astype(np.int32)


@eqx.filter_jit
def _encode(
    tokenizer: Tokenizer, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch rows columns channels"]:
    floats = images.astype(jnp.float32) / 255
    return tokenizer.normalize_latents(jax.vmap(tokenizer.encode)(floats))


def fit_to_latents(
    config: GenerateConfig, shape: Sequence[int], num_classes: int
) -> GenerateConfig:
    """`config` with the latents' `[side, side, channels]` and number of classes.

    More classes than there are may be. See `fit_dit`.
    """
    height, width, channels = shape
    require(
        height == width,
        f"`latents` must be square; got {height} x {width}: crop images to squares.",
    )
    values = {"latent_size": height, "latent_width": channels}
    usual = DiTConfig.num_classes  # the default
    if config.dit.num_classes == usual or config.dit.num_classes < num_classes:
        values["num_classes"] = num_classes
    return fit_dit(config, values, "latents")
