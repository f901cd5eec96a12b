"""The affine map along the last axis."""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


class Linear(eqx.Module):
    """`x @ weight.T + bias` along the last axis.

    Unlike `equinox.nn.Linear` it takes any leading axes, so that a whole sequence is
    one matrix product, batched or not. The weight is stored as published: `[out, in]`.
    Computes in the type of its weight, whatever comes in.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"] | None

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        use_bias: bool = True,
        std: float = 0.02,
        key: PRNGKeyArray,
    ):
        """Weights are drawn from N(0, std^2), biases are 0 (published code)."""
        self.weight = std * jr.normal(key, (out_width, in_width), jnp.float32)
        self.bias = jnp.zeros(out_width, jnp.float32) if use_bias else None

    def __call__(self, x: Float[Array, "*axes in"]) -> Float[Array, "*axes out"]:
        mapped = product(x, self.weight)
        return mapped if self.bias is None else mapped + self.bias


def product(
    x: Float[Array, "*axes in"], weight: Float[Array, "out in"]
) -> Float[Array, "*axes out"]:
    """`x @ weight.T` in the type of `weight`."""
    # Not written so: a scan over layers would keep every transposed weight for the
    # backward pass, beside the weight itself.
    last, no_batch = ((x.ndim - 1,), (1,)), ((), ())
    return lax.dot_general(x.astype(weight.dtype), weight, (last, no_batch))


def orthogonal(layer: Linear, *, key: PRNGKeyArray) -> Linear:
    """`layer` with a random weight whose rows, or columns if fewer, are orthonormal.

    Saxe et al. 2014, https://arxiv.org/abs/1312.6120.
    """
    weight = jax.nn.initializers.orthogonal()(key, layer.weight.shape, jnp.float32)
    return eqx.tree_at(lambda layer: layer.weight, layer, weight)
