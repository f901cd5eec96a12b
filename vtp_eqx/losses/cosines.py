"""Directions of vectors and the cosines between them, in float32.

On accelerators the default product of float32 matrices keeps 10 bits of mantissa. A
contrastive logit is 100 times a cosine: it would be wrong by 0.1. Hence `HIGHEST`.
"""

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_norm(
    vectors: Float[Array, "*rows width"], *, eps: float = 1e-12
) -> Float[Array, "*rows width"]:
    """`vectors` over their length, or over `eps` where they are shorter than that."""
    vectors = vectors.astype(jnp.float32)
    # The maximum is inside the root, whose gradient at zero is infinite.
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(squared, eps**2))


def pairwise_cosine(
    queries: Float[Array, "*batch queries width"],
    keys: Float[Array, "*batch keys width"],
) -> Float[Array, "*batch queries keys"]:
    """The inner product of every query with every key; cosines for unit vectors."""
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    swapped = jnp.swapaxes(keys, -1, -2)
    return jnp.matmul(queries, swapped, precision=lax.Precision.HIGHEST)
