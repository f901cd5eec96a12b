"""A function of every row of a matrix too large to exist whole."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


CHUNK_VALUES = 2**25  # float32 values that exist at a time: 128 MiB


def chunked_vmap(
    function: Callable[..., Any],
    *rows: Any,
    columns: int,
    block: int | None = None,
) -> Any:
    """`function(*row)` for every row, a block of them at a time.

    A row's intermediate values are as many as `columns`. Where one block does not hold
    all rows, the backward pass computes those values again instead of keeping them.

    - `rows`: trees of arrays with one leading axis in common.
    - `block`: rows at a time; `None` takes as many as have `CHUNK_VALUES` values.
    """
    block = chunk_size(columns) if block is None else block
    if len(jax.tree.leaves(rows)[0]) <= block:
        return jax.vmap(function)(*rows)
    again = jax.checkpoint(function)
    return lax.map(lambda row: again(*row), rows, batch_size=block)


def chunk_size(columns: int) -> int:
    """How many rows of so many `columns` one block holds."""
    return max(CHUNK_VALUES // columns, 1)
