"""Normalizations over the positions of images, computed in float32 whatever comes in.

Both take a batch with channels last, `[batch, *positions, channels]`.
"""

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


Batch = Float[Array, "batch *positions channels"]
EPS = 1e-5  # torch


class BatchNorm(eqx.Module):
    """Normalizes each channel over the batch and all positions, as torch in training.

    The statistics are always those of the batch, which is the global one where
    `axis_name` is the mesh axis it is split over: on any number of devices they are the
    same. None are kept for inference, of which a discriminator has none.

    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]

    def __call__(self, x: Batch, axis_name: str | None = None) -> Batch:
        def mean(values):
            local = jnp.mean(values, axis=tuple(range(values.ndim - 1)))
            return local if axis_name is None else lax.pmean(local, axis_name)

        wide = x.astype(jnp.float32)
        centered = wide - mean(wide)
        normal = centered * lax.rsqrt(mean(centered**2) + EPS)
        return (normal * self.weight + self.bias).astype(x.dtype)


class GroupNorm(eqx.Module):
    """Normalizes groups of channels over the positions of each image by itself.

    Wu and He 2018, https://arxiv.org/abs/1803.08494: 32 groups, or as many as divide
    the channels.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]

    def __call__(self, x: Batch, axis_name: str | None = None) -> Batch:
        """`axis_name` is that of `BatchNorm`: no other image is looked at."""
        channels = x.shape[-1]
        groups = max(n for n in range(1, 33) if channels % n == 0)
        wide = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, channels // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        centered = wide - jnp.mean(wide, axis=axes, keepdims=True)
        variance = jnp.mean(centered**2, axis=axes, keepdims=True)
        normal = (centered * lax.rsqrt(variance + EPS)).reshape(x.shape)
        return (normal * self.weight + self.bias).astype(x.dtype)
