"""The job of fine-tuning a tokenizer's decoder against a discriminator, in a folder."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8
import numpy as np

from vtp_eqx.config import FinetuneConfig, require
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.mesh import data_mesh, gather_to_host, local_mesh, replicate, shard_batch
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import Batches
from vtp_eqx.runs.log import Sink, warn
from vtp_eqx.runs.loop import Callbacks, FaultTolerance, Progress, run_training
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.adversarial_step import init_finetuning
from vtp_eqx.training.decode import EncodedBatch
from vtp_eqx.training.state import TrainState


# Ours: a collapse that has lasted so many steps is one, and lines of the log are no
# further apart than so many, so that it is reported within 500.
COLLAPSED_STEPS, MAX_LOG_EVERY = 200, 250
COLLAPSES = {
    "saturated_steps": "The discriminator's loss has been nearly 0 for {:.0f} steps, "
    "up to step {}, so that the decoder learns little from it: lower its learning "
    "rate, augment more, or set `lecam_weight`.",
    "flat_steps": "Decoded images have been nearly of one color for {:.0f} steps, up "
    "to step {}: lower the adversarial `weight` or the learning rates, and begin again "
    "from an earlier checkpoint.",
}


def collapse_sink() -> Sink:
    """A sink of the log that warns once of each collapse, on standard error."""
    warned: set[str] = set()

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, text in COLLAPSES.items():
            count = values.get(name, 0)
            if count < COLLAPSED_STEPS:
                warned.discard(name)
            elif name not in warned:
                warned.add(name)
                warn(text.format(count, step))

    return write


class EncodedImages:
    """`batches(first)` yields batches of images and of their latents.

    Images are squares cut at random from the long side, and are encoded on the devices
    of this process when they are needed. A batch is a function of (seed, step).
    `rows(batch)` are the rows of the source that it has.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: Source,
        config: FinetuneConfig,
        mesh: Mesh,
        *,
        folder: Path,
        workers: int = 8,
    ):
        """`folder`: where bad examples are logged."""
        sampler = make_sampler(source, config.batch_size, seed=config.seed)
        size = tokenizer.config.image_size
        reader = ExampleReader(source=source, sampler=sampler, size=size)
        self.images = Batches(reader=reader, folder=folder, workers=workers)
        self.rows = self.images.rows
        self.mesh = local_mesh(mesh)
        self.tokenizer = replicate(tokenizer, self.mesh)

    def __call__(self, first: int) -> Iterator[EncodedBatch]:
        for examples in self.images.examples(first):
            latents = _encode(self.tokenizer, shard_batch(examples.image, self.mesh))
            yield EncodedBatch(examples.image, np.asarray(latents))


def finetune_decoder(
    config: FinetuneConfig,
    tokenizer: Tokenizer,
    batches: Callable[[int], Iterator[EncodedBatch]],
    *,
    folder: Path,
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    vision: DepthFeatures | None = None,
    evaluate: Callable[[Tokenizer, int], dict[str, float]] | None = None,
    evaluate_every: int = 5000,
    log_every: int = 50,
    save_every: int = 1000,
    fault_tolerance: FaultTolerance = FaultTolerance(),
    progress: Progress = lambda done, num_steps, metrics: None,
    holds_folder: bool = False,
) -> Tokenizer:
    """`tokenizer` with the moving average of its decoder; all else is kept.

    A generator of its latents stays valid, because `latents_hash` does not change.

    - `batches(first)` yields this process's part of the batches from number `first` on.
    - `perceptual`: the network of LPIPS, where that has a weight. `vision`: the one
      that a discriminator of the kind "features" sees with.
    - `evaluate(tokenizer, step)`: as in `Callbacks`, with the tokenizer so far.
    - `holds_folder`: the caller has locked `folder` and written its config.

    A collapse is a warning on standard error within 500 steps. The other arguments,
    and what is raised, are those of `run_training`.
    """
    require(
        log_every <= MAX_LOG_EVERY,
        f"`log_every` ({log_every}) must be {MAX_LOG_EVERY} or less, because a "
        "collapse is found in lines of the log: lower it.",
    )
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_finetuning(config, tokenizer, mesh, perceptual, vision)

    def current(state: TrainState) -> Tokenizer:
        decoder = gather_to_host(state.teacher)
        return eqx.tree_at(lambda tokenizer: tokenizer.decoder, tokenizer, decoder)

    state = run_training(
        state, step, batches,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        log_every=log_every, save_every=save_every, fault_tolerance=fault_tolerance,
        config=config, holds_folder=holds_folder,
        callbacks=Callbacks(
            evaluate=evaluate and (lambda state, done: evaluate(current(state), done)),
            evaluate_every=evaluate_every,
            score=lambda values: values.get("psnr", 0.0),
            sinks=[collapse_sink()] if is_main_process() else [],
            cost=StepCost(images=config.batch_size),
            rows=getattr(batches, "rows", None),
        ),
    )  # fmt: skip
    return current(state)


@eqx.filter_jit
def _encode(
    tokenizer: Tokenizer, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch rows columns channels"]:
    return jax.vmap(tokenizer.encode)(images.astype(jnp.float32) / 255)
