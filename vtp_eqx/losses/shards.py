"""A shard's rows among those of the global batch, which a mesh axis may split.

Where `axis_name` is `None`, the batch is not split: its rows are all there are.
"""

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def global_rows(local_size: int, axis_name: str | None) -> Int[Array, " local"]:
    """The positions of this shard's rows in the global batch."""
    rows = jnp.arange(local_size)
    if axis_name is None:
        return rows
    return lax.axis_index(axis_name) * local_size + rows


def gathered(
    rows: Float[Array, "batch width"], axis_name: str | None
) -> Float[Array, "global width"]:
    """The rows of all shards in order; their gradient goes back to their owners."""
    return rows if axis_name is None else lax.all_gather(rows, axis_name, tiled=True)


def global_mean(
    values: Float[Array, "*shape"], axis_name: str | None
) -> Float[Array, "*shape"]:
    """The mean of a value over all shards."""
    return values if axis_name is None else lax.pmean(values, axis_name)
