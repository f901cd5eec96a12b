"""What a `DiT` computes, in the published layout, to compare with its code."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Shaped

from vtp_eqx.models.dit import DiT


Arrays = dict[str, Shaped[Array, "..."]]


def dit_outputs(dit: DiT) -> tuple[Arrays, Arrays]:
    """Inputs in the published layout, and our velocity in it."""
    config = dit.config
    side, channels = config.latent_size, config.latent_width
    latents = jr.normal(jr.key(0), (3, side, side, channels))
    times, labels = jnp.array([0.0, 0.4, 1.0]), jnp.arange(3) % config.num_classes
    velocity = eqx.filter_jit(dit.batch)(latents, times, labels)
    inputs = {"x": jnp.moveaxis(latents, -1, 1), "t": times, "y": labels}
    return inputs, {"velocity": jnp.moveaxis(velocity, -1, 1)}
