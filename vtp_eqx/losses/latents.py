"""How latents lie in space: the spread of their channels, and their smoothness.

Latents are float32 `[batch, height, width, channels]`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import require
from vtp_eqx.losses.checks import require_finite
from vtp_eqx.losses.shards import global_mean


Latents = Float[Array, "batch height width channels"]


def channel_variance(
    latents: Latents, *, axis_name: str | None = None
) -> Float[Array, " channels"]:
    """The variance of each channel over all positions of the global batch."""
    over = lambda values: global_mean(jnp.mean(values, axis=(0, 1, 2)), axis_name)
    mean = over(latents)
    return over((latents - mean) ** 2)


def smoothness_loss(
    latents: Latents, *, axis_name: str | None = None
) -> Float[Array, " batch"]:
    """By how much latents differ from their neighbors, beside how much they vary.

    For each image, the mean squared difference of neighbors, down and across, over
    twice the variance of their channel in the batch: 0 where an image's latents are all
    the same, about 1 where neighbors have nothing to do with each other. Scaling or
    shifting a channel changes nothing, so that the loss cannot be evaded by shrinking.
    Height and width must be 2 or more, else `ValueError`.

    A control, ours: is it only their smoothness that makes latents good to generate on?
    """
    require_finite(latents=latents)
    require(
        min(latents.shape[1:3]) >= 2,
        "Latents need a height and width of 2 or more to have neighbors; got "
        f"{latents.shape[1]} x {latents.shape[2]}: use smaller patches.",
    )
    variance = channel_variance(latents, axis_name=axis_name)
    down, across = (
        jnp.mean(jnp.diff(latents, axis=axis) ** 2, axis=(1, 2)) for axis in (1, 2)
    )
    # A channel that died varies by rounding errors: its share must not explode.
    return jnp.mean((down + across) / (4 * variance + 1e-6), axis=-1)
