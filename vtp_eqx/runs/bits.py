"""The bits of arrays as unsigned integers: what sums and comparisons are taken of."""

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Shaped, UInt


_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def is_key(leaf: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether an array, or its shape, is one of random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_numbers(array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`array` in a type to calculate with: keys as their data, booleans as 0 and 1."""
    if is_key(array):
        return jax.random.key_data(array)
    return array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array


def as_words(array: Shaped[Array, "..."]) -> UInt[Array, "..."]:
    """The bits of `array`, an integer an element (of 8 bytes: two)."""
    array = as_numbers(array)
    return lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
