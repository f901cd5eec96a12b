"""Training a pixel decoder anew on latents that stay as they are."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from vtp_eqx.config import DecodeConfig, TransformerConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.decode_objective import decode_objective
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.state import copy_arrays, TrainState
from vtp_eqx.training.step import make_step, Step


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
