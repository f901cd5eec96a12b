"""Training a pixel decoder anew on latents that stay as they are."""

from collections.abc import Iterator
import dataclasses
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray, UInt8
import numpy as np

from vtp_eqx.config import DecodeConfig, TransformerConfig
from vtp_eqx.data.loader import batches
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.decode_objective import decode_objective, EncodedBatch
from vtp_eqx.training.loop import Progress, run_training, Step
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.pca_start import solve_decoder
from vtp_eqx.training.state import copy_arrays, TrainState
from vtp_eqx.training.step import make_step


START_IMAGES = 2048  # images that the linear start is solved on


def train_decoder(
    config: DecodeConfig,
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    latents: Float[np.ndarray, "num rows columns channels"],
    *,
    folder: Path,
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> Tokenizer:
    """`tokenizer` with a decoder that learned to invert its latents; all else is kept.

    - `latents`: what `tokenizer.encode` makes of `images`. Noise is in units of their
      deviation: with it, the tokenizer's latent statistics must have been measured.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `perceptual`: the network of LPIPS, where that has a weight.
    """
    mesh = data_mesh() if mesh is None else mesh
    begun = with_new_decoder(tokenizer, config.decoder, key=jr.key(config.seed))
    if config.linear_start:
        begun = solve_decoder(begun, images[:START_IMAGES])
    state, step = init_decoder_training(config, begun, mesh, perceptual)
    arrays = {"image": images, "latents": latents}

    def encoded(first: int) -> Iterator[EncodedBatch]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first
        ):
            yield EncodedBatch(batch["image"], batch["latents"])

    state = run_training(
        state, step, encoded,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
    )  # fmt: skip
    return eqx.tree_at(lambda tokenizer: tokenizer.decoder, begun, state.teacher)


def init_decoder_training(
    config: DecodeConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a training of `tokenizer.decoder`, and its compiled step."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = TrainState.start(
        copy_arrays(tokenizer.decoder),
        copy_arrays(tokenizer.decoder),
        FixedWeights({"reconstruction": 1.0}),
        optimizer,
        key=jr.fold_in(jr.key(config.seed), 1),
    )
    step = make_step(
        state,
        decode_objective(config, tokenizer, perceptual),
        optimizer,
        mesh,
        momentum=lambda step: jnp.asarray(config.ema_decay, jnp.float32),
        ema_source=lambda student: student,
        spike_factor=config.optimizer.spike_factor,
    )
    return state, step


def with_new_decoder(
    tokenizer: Tokenizer, decoder: TransformerConfig, *, key: PRNGKeyArray
) -> Tokenizer:
    """`tokenizer` with a decoder of another shape, untrained; all else is kept."""
    config = dataclasses.replace(tokenizer.config, decoder=decoder)
    origin = tokenizer.origin
    make = eqx.filter_jit(lambda key: Tokenizer(config, origin=origin, key=key))
    made = ("decoder", "config", "origin")
    names = [one.name for one in dataclasses.fields(Tokenizer) if one.name not in made]
    kept = lambda tokenizer: [getattr(tokenizer, name) for name in names]
    return eqx.tree_at(
        kept, make(key), kept(tokenizer), is_leaf=lambda leaf: leaf is None
    )
