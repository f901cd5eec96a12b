"""What a generator learns: the flow from noise to latents."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import GenerateConfig
from vtp_eqx.flow import flow_loss, interpolate, time_samples
from vtp_eqx.models.dit import DiT, drop_labels
from vtp_eqx.training.objective import Objective


class LatentBatch(eqx.Module):
    """A batch for the generator: normalized latents and their classes."""

    latents: Float[Array | np.ndarray, "batch height width channels"]
    label: Int[Array | np.ndarray, " batch"]


class FlowPoints(eqx.Module):
    """Points on the paths from noise to latents, and the velocities there."""

    point: Float[Array, "batch height width channels"]
    velocity: Float[Array, "batch height width channels"]
    t: Float[Array, " batch"]
    label: Int[Array, " batch"]


def generate_objective(config: GenerateConfig) -> Objective:
    """Flow matching in latent space (LightningDiT; RECIPE 8.2)."""

    def make_views(batch: LatentBatch, key: PRNGKeyArray) -> FlowPoints:
        noise_key, time_key, drop_key = jr.split(key, 3)
        noise = jr.normal(noise_key, batch.latents.shape, jnp.float32)
        t = time_samples(
            len(batch.label), mean=config.time_mean, std=config.time_std, key=time_key
        )
        point, velocity = interpolate(noise, jnp.asarray(batch.latents), t)
        label = drop_labels(jnp.asarray(batch.label), config.dit, key=drop_key)
        return FlowPoints(point=point, velocity=velocity, t=t, label=label)

    def forward(
        student: DiT, teacher: Any, views: FlowPoints, step: Array, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        predicted = student.batch(views.point, views.t, views.label).astype(jnp.float32)
        loss = flow_loss(predicted, views.velocity, cosine_weight=config.cosine_weight)
        return {"flow": loss.total}, {"square": loss.square, "cosine": loss.cosine}

    return Objective(make_views, forward)
