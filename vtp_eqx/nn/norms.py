"""Normalizations along the last axis, computed in float32 whatever comes in."""

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import Norm
from vtp_eqx.nn.recompute import recomputed


class RMSNorm(eqx.Module):
    """Divides by the root mean square and scales: Zhang and Sennrich 2019."""

    weight: Float[Array, " width"]
    eps: float = eqx.field(static=True)

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = jnp.ones(width, jnp.float32)
        self.eps = eps

    @recomputed
    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normal = wide * lax.rsqrt(mean_square + self.eps)
        return normal.astype(x.dtype) * self.weight.astype(x.dtype)


class LayerNorm(eqx.Module):
    """Removes the mean, divides by the deviation, scales and shifts: Ba et al. 2016."""

    weight: Float[Array, " width"] | None
    bias: Float[Array, " width"] | None
    eps: float = eqx.field(static=True)

    def __init__(self, width: int, eps: float = 1e-6, *, affine: bool = True):
        self.weight = jnp.ones(width, jnp.float32) if affine else None
        self.bias = jnp.zeros(width, jnp.float32) if affine else None
        self.eps = eps

    @recomputed
    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        wide = x.astype(jnp.float32)
        centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centered * centered, axis=-1, keepdims=True)
        normal = (centered * lax.rsqrt(variance + self.eps)).astype(x.dtype)
        if self.weight is None or self.bias is None:
            return normal
        return normal * self.weight.astype(x.dtype) + self.bias.astype(x.dtype)


def make_norm(kind: Norm, width: int, eps: float | None = None) -> RMSNorm | LayerNorm:
    """The norm named `kind`; `eps=None` takes the published one (1e-5 or 1e-6)."""
    if kind == "rmsnorm":
        return RMSNorm(width, 1e-5 if eps is None else eps)
    return LayerNorm(width, 1e-6 if eps is None else eps)


def rms_normalized(x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
    """`x` over its root mean square, without a weight; zeros stay zeros."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(mean_square + 1e-6)).astype(x.dtype)


def unit_norm(x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
    """`x` divided by its Euclidean length; a vector of zeros stays as it is."""
    wide = x.astype(jnp.float32)
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    # Bounded before the root, so that the gradient at zero is a number.
    return (wide * lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)
