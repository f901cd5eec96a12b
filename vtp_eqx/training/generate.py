"""Training a diffusion transformer: what it learns, its first state and its step."""

import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray
import numpy as np

from vtp_eqx.config import GenerateConfig
from vtp_eqx.flow import interpolate, time_samples
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.models.dit import Conditions, DiT, drop_conditions, num_rows
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step, Step
from vtp_eqx.training.terms.flow_matching import (
    FlowMatching,
    FlowPass,
    FlowPoints,
    GeneratorStudent,
)
from vtp_eqx.training.terms.repulsion import Repulsion
from vtp_eqx.training.terms.term import compose, first_memory


class LatentBatch(eqx.Module):
    """A batch for the generator: normalized latents and their classes or captions."""

    latents: Float[Array | np.ndarray, "batch height width channels"]
    condition: Conditions


def generate_objective(config: GenerateConfig) -> Objective:
    """Flow matching in latent space (LightningDiT), and repulsion if it has a weight.

    The student is a `DiT`, or with repulsion a `GeneratorStudent`.
    """

    def make_views(batch: LatentBatch, key: PRNGKeyArray) -> FlowPoints:
        noise_key, time_key, drop_key = jr.split(key, 3)
        noise = jr.normal(noise_key, batch.latents.shape, jnp.float32)
        t = time_samples(
            num_rows(batch.condition), mean=config.time_mean, std=config.time_std,
            key=time_key,
        )  # fmt: skip
        point, velocity = interpolate(noise, jnp.asarray(batch.latents), t)
        given = jax.tree.map(jnp.asarray, batch.condition)
        condition = drop_conditions(given, config.dit, key=drop_key)
        return FlowPoints(point=point, velocity=velocity, t=t, condition=condition)

    return compose(
        generator_terms(config), make_views,
        make_passes=lambda student, views, key: FlowPass(student, views),
    )  # fmt: skip


def generator_terms(config: GenerateConfig) -> tuple[FlowMatching | Repulsion, ...]:
    """The loss terms of a generator's training, without those whose weight is 0."""
    terms = (FlowMatching(config), Repulsion(config))
    return tuple(term for term in terms if term.weight > 0)


def init_generator_training(
    config: GenerateConfig, mesh: Mesh
) -> tuple[TrainState, Step]:
    """The first state of a generator's training, and its compiled step."""
    model_key, run_key = jr.split(jr.key(config.seed))
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    terms = generator_terms(config)

    @eqx.filter_jit  # one compilation in place of hundreds of small ones
    def start(model_key: PRNGKeyArray, run_key: PRNGKeyArray) -> TrainState:
        dit = DiT(config.dit, key=model_key)
        own_key = lambda term: jr.fold_in(model_key, zlib.crc32(term.name.encode()))
        heads = {
            term.name: term.make_head(own_key(term))
            for term in terms
            if isinstance(term, Repulsion)
        }
        student = GeneratorStudent(dit, heads) if heads else dit
        weights = FixedWeights({term.name: term.weight for term in terms})
        return TrainState.start(
            student, copy_arrays(dit), weights, optimizer,
            memory=first_memory(terms), key=run_key,
        )  # fmt: skip

    state = start(model_key, run_key)
    state = shard_state(state, mesh, config.sharding)
    step = make_step(
        state,
        generate_objective(config),
        optimizer,
        mesh,
        momentum=lambda step: _ema_decay(config, step),
        ema_source=generated_by,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
    )
    return state, step


def generated_by(student: DiT | GeneratorStudent) -> DiT:
    """The transformer of a student, without heads."""
    return student if isinstance(student, DiT) else student.dit


def _ema_decay(config: GenerateConfig, step: Array) -> Array:
    decay = jnp.asarray(config.ema_decay, jnp.float32)
    if not config.ema_warmup:
        return decay
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
