"""Training a pixel decoder anew on latents that stay as they are."""

from collections.abc import Iterator
import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
import numpy as np

from vtp_eqx.config import DecodeConfig, TransformerConfig
from vtp_eqx.data.loader import batches
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.decoder import PixelDecoder
from vtp_eqx.models.perceptual import Perceptual
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.objective import Objective
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.pca_start import solve_decoder
from vtp_eqx.training.pixels import pixel_loss, require_perceptual
from vtp_eqx.training.run import Progress, run, Step
from vtp_eqx.training.state import copied, TrainState
from vtp_eqx.training.step import make_step


START_IMAGES = 2048  # images that the linear start is solved on


class Encoded(eqx.Module):
    """A batch for the decoder: images, and their raw latents."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    latents: Float[Array | np.ndarray, "batch rows columns channels"]


class DecodeViews(eqx.Module):
    """Raw latents, noisy where asked for, and the normalized pixels they stand for."""

    latents: Float[Array, "batch rows columns channels"]
    pixels: Float[Array, "batch height width 3"]


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

    - `latents`: what `tokenizer.encode` makes of `images`; its latent statistics must
      have been measured, because noise is in units of their deviation.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `perceptual`: the network of LPIPS, where that has a weight.
    """
    mesh = data_mesh() if mesh is None else mesh
    begun = with_new_decoder(tokenizer, config.decoder, key=jr.key(config.seed))
    if config.linear_start:
        begun = solve_decoder(begun, images[:START_IMAGES])
    state, step = decoding(config, begun, mesh, perceptual)
    arrays = {"image": images, "latents": latents}

    def encoded(first: int) -> Iterator[Encoded]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first
        ):
            yield Encoded(batch["image"], batch["latents"])

    state = run(
        state, step, encoded,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
    )  # fmt: skip
    return eqx.tree_at(lambda tokenizer: tokenizer.decoder, begun, state.teacher)


def decoding(
    config: DecodeConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a training of `tokenizer.decoder`, and its compiled step."""
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = TrainState.start(
        copied(tokenizer.decoder),
        copied(tokenizer.decoder),
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
        followed=lambda student: student,
        spike_factor=config.optimizer.spike_factor,
    )
    return state, step


def decode_objective(
    config: DecodeConfig, tokenizer: Tokenizer, perceptual: Perceptual | None = None
) -> Objective:
    """Reconstruction of pixels from latents of `tokenizer`, which gets no gradient."""
    require_perceptual(config.reconstruction, perceptual)

    def prepare(batch: Encoded, key: PRNGKeyArray) -> DecodeViews:
        latents = jnp.asarray(batch.latents)
        if config.latent_noise > 0:
            noise = jr.normal(key, latents.shape, jnp.float32)
            latents += config.latent_noise * tokenizer.latent_std * noise
        unit = jnp.asarray(batch.image).astype(jnp.float32) / 255
        return DecodeViews(latents, tokenizer.normalize(unit))

    def see(
        student: PixelDecoder, teacher: Any, views: DecodeViews, step: Array,
        key: PRNGKeyArray,
    ) -> tuple[dict[str, Array], dict[str, Array]]:  # fmt: skip
        rebuilt = student.batch(views.latents)
        loss = pixel_loss(
            rebuilt, views.pixels, config.reconstruction, perceptual,
            tokenizer.denormalize,
        )  # fmt: skip
        return {"reconstruction": loss}, {}

    return Objective(prepare, see)


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
