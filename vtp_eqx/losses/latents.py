"""How latents lie in space: their spread, smoothness and noise.

Latents are float32 `[batch, height, width, channels]`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from vtp_eqx.config import require
from vtp_eqx.losses.checks import require_finite
from vtp_eqx.losses.cosines import pairwise_cosine, unit_norm
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


def kl_loss(mean: Latents, log_variance: Latents) -> Float[Array, " batch"]:
    """The divergence of a normal posterior from the standard normal law, in nats.

    For each image, the mean over its numbers: 0 where all have mean 0 and variance 1.
    Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, appendix B.
    """
    require_finite(mean=mean, log_variance=log_variance)
    # `expm1`, so that nothing cancels near a variance of 1.
    nats = (mean**2 + jnp.expm1(log_variance) - log_variance) / 2
    return jnp.mean(nats, axis=(1, 2, 3))


def local_correlation_loss(
    latents: Latents, *, threshold: float
) -> Float[Array, " batch"]:
    """By how much neighbors in windows of 2 x 2 correlate less than `threshold`.

    The correlation of two latent vectors is the cosine of both, each less its mean over
    channels. For each window `relu(threshold - mean cosine of its pairs)`, and for each
    image the mean over windows: from 0 to `1 + threshold`. Height and width must be 2
    or more, else `ValueError`.

    SSVAE, https://arxiv.org/abs/2512.05394; that windows overlap is ours.
    """
    require_finite(latents=latents)
    _, height, width, _ = latents.shape
    require(
        min(height, width) >= 2,
        f"Windows are 2 x 2; got latents of {height} x {width}: use smaller patches.",
    )
    centered = latents - jnp.mean(latents, axis=-1, keepdims=True)
    unit = unit_norm(centered, eps=1e-6)
    corners = [
        unit[:, down : height - 1 + down, right : width - 1 + right]
        for down in (0, 1)
        for right in (0, 1)
    ]
    windows = jnp.stack(corners, axis=3)
    similarity = pairwise_cosine(windows, windows)
    pairs = jnp.sum(similarity * (1 - jnp.eye(4)), axis=(-2, -1)) / 12
    return jnp.mean(jax.nn.relu(threshold - pairs), axis=(1, 2))


def rotated_from(
    latents: Latents, noise: Latents, degrees: ScalarLike
) -> Float[Array, "batch height width channels"]:
    """The latents of each image, all its numbers as one vector, turned to the noise.

    By so many degrees, in the plane of both; their length stays. PAE's perturbation
    (https://arxiv.org/abs/2605.07915), as one angle for all latents.
    """
    flat, drawn = (grid.reshape(len(grid), -1) for grid in (latents, noise))
    length = jnp.sqrt(jnp.sum(flat**2, axis=1, keepdims=True) + 1e-12)
    along = unit_norm(flat)
    across = unit_norm(drawn - jnp.sum(drawn * along, axis=1, keepdims=True) * along)
    angle = jnp.deg2rad(degrees)
    moved = jnp.cos(angle) * flat + jnp.sin(angle) * length * across
    return moved.reshape(latents.shape)
