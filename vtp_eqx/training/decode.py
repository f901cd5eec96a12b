"""Training a new pixel decoder on frozen latents."""

from collections.abc import Callable
import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
import numpy as np

from vtp_eqx.config import DecodeConfig, NoiseLaw, TransformerConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.models.input_checks import check_measured
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step, Step
from vtp_eqx.training.terms.reconstruction import (
    DecoderViews,
    LatentsToPixels,
    noisy,
    require_perceptual_weights,
)
from vtp_eqx.training.terms.term import compose


class EncodedBatch(eqx.Module):
    """A batch for the decoder: images, and their raw latents."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    latents: Float[Array | np.ndarray, "batch rows columns channels"]


def decode_objective(
    config: DecodeConfig, tokenizer: Tokenizer, perceptual: Perceptual | None = None
) -> Objective:
    """Reconstruction of pixels from latents of `tokenizer`, which gets no gradient."""
    require_perceptual_weights(config.reconstruction, perceptual)
    make_views = decoder_views(tokenizer, config.latent_noise, config.noise_law)
    return compose((LatentsToPixels(config, tokenizer, perceptual),), make_views)


def decoder_views(
    tokenizer: Tokenizer, latent_noise: float, law: NoiseLaw
) -> Callable[[EncodedBatch, PRNGKeyArray], DecoderViews]:
    """`make_views(batch, key)` of a decoder of `tokenizer`, with noise on latents.

    The noise is in deviations of a channel; with it, a `ValueError` where the latent
    statistics were never measured.
    """
    check_measured(tokenizer.is_measured or latent_noise == 0)

    def make_views(batch: EncodedBatch, key: PRNGKeyArray) -> DecoderViews:
        latents = jnp.asarray(batch.latents)
        if latent_noise > 0:
            noise = jr.normal(key, latents.shape, jnp.float32)
            noise = latent_noise * tokenizer.latent_std * noise
            # Not `fold_in` of 1, from which a discriminator's augmentation draws.
            shares = jr.uniform(jr.fold_in(key, 2), (len(latents),))
            latents = noisy(latents, noise, law, shares)
        unit = jnp.asarray(batch.image).astype(jnp.float32) / 255
        return DecoderViews(latents, tokenizer.normalize(unit))

    return make_views


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
    state = shard_state(state, mesh, config.sharding)
    step = make_step(
        state,
        decode_objective(config, tokenizer, perceptual),
        optimizer,
        mesh,
        momentum=lambda step: jnp.asarray(config.ema_decay, jnp.float32),
        ema_source=lambda student: student,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
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
