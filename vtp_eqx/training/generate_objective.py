"""What a generator learns: the flow from noise to latents."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import GenerateConfig
from vtp_eqx.flow import interpolate, time_samples
from vtp_eqx.models.dit import drop_labels
from vtp_eqx.training.objective import Objective
from vtp_eqx.training.terms.flow_matching import FlowMatching, FlowPoints
from vtp_eqx.training.terms.term import compose


class LatentBatch(eqx.Module):
    """A batch for the generator: normalized latents and their classes."""

    latents: Float[Array | np.ndarray, "batch height width channels"]
    label: Int[Array | np.ndarray, " batch"]


def generate_objective(config: GenerateConfig) -> Objective:
    """Flow matching in latent space (LightningDiT)."""

    def make_views(batch: LatentBatch, key: PRNGKeyArray) -> FlowPoints:
        noise_key, time_key, drop_key = jr.split(key, 3)
        noise = jr.normal(noise_key, batch.latents.shape, jnp.float32)
        t = time_samples(
            len(batch.label), mean=config.time_mean, std=config.time_std, key=time_key
        )
        point, velocity = interpolate(noise, jnp.asarray(batch.latents), t)
        label = drop_labels(jnp.asarray(batch.label), config.dit, key=drop_key)
        return FlowPoints(point=point, velocity=velocity, t=t, label=label)

    return compose((FlowMatching(config),), make_views)
