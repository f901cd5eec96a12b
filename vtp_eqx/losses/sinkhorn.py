"""Targets that use all prototypes equally, without the matrix they are made from.

Sinkhorn-Knopp scales the rows and the columns of a matrix in turn. The scale of a row
follows from those of the columns, so that one number a prototype is the whole result:
an offset of its logit. The matrix is visited a block of rows at a time.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, section 3.1; as in DINOv2,
https://arxiv.org/abs/2304.07193, section 4.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from vtp_eqx.config import require
from vtp_eqx.losses.checks import require_finite, require_positive, unless_empty
from vtp_eqx.losses.chunked_vmap import chunk_size


Score = Callable[[Any], Float[Array, " prototypes"]]


def sinkhorn(
    logits: Float[Array, "rows prototypes"],
    *,
    temperature: ScalarLike,
    iterations: int = 3,
    weight: Float[Array, " rows"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, "rows prototypes"]:
    """Teacher targets that use all prototypes equally (Sinkhorn-Knopp).

    Alternately gives every prototype the same total over the global batch, and every
    row the total 1. Works on logarithms: the published loop on exponentials divides by
    zero where logits spread over more than 87 temperatures.

    - `logits`: of the teacher; its rows may be images or masked patches.
    - `temperature`: divides the logits. DINOv2 warms it up from 0.04 to 0.07.
    - `iterations`: 1 or more. DINOv2 takes 3.
    - `weight`: rows of weight 0 are padding: left out of all totals. `None`: none is.
    - `axis_name`: mesh axis that the rows are split over, or `None` off-mesh. Shards
        may differ in their padding.

    Distributions, one a row; zeros in padding; NaN (outside of jit: `ValueError`) where
    every row of the global batch is padding.
    """
    logits = lax.stop_gradient(logits).astype(jnp.float32)
    require_finite(logits=logits)
    kept = jnp.ones(logits.shape[0], bool) if weight is None else weight > 0
    offsets = sinkhorn_offsets(
        lambda row: row, logits, kept,
        temperature=temperature, iterations=iterations, axis_name=axis_name,
    )  # fmt: skip
    targets = balanced_targets(logits, offsets, temperature=temperature)
    if weight is None:
        return targets
    targets = jnp.where(kept[:, None], targets, 0.0)
    return unless_empty(targets, kept, axis_name=axis_name)


def balanced_targets(
    logits: Float[Array, "*rows prototypes"],
    offsets: Float[Array, " prototypes"],
    *,
    temperature: ScalarLike,
) -> Float[Array, "*rows prototypes"]:
    """Targets of some rows, by the offsets that `sinkhorn_offsets` found for all."""
    logits, offsets = lax.stop_gradient((logits.astype(jnp.float32), offsets))
    return jax.nn.softmax(logits / temperature + offsets, axis=-1)


def sinkhorn_offsets(
    score: Score,
    rows: Any,
    kept: Bool[Array, " rows"],
    *,
    temperature: ScalarLike,
    iterations: int = 3,
    axis_name: str | None = None,
    block: int | None = None,
) -> Float[Array, " prototypes"]:
    """What to add to the teacher's logits over the temperature before its softmax.

    - `score(row)`: the logit of every prototype. It is asked again in each iteration,
        so that no more than a block of logits exists at a time.
    - `rows`: a tree of arrays with a leading axis.
    - `kept`: `False` for rows that are padding: left out of all totals.
    - `block`: rows at a time; `None`: see `vtp_eqx.losses.chunked_vmap`.

    The other arguments are those of `sinkhorn`. Not finite where all rows are padding.
    """
    require(iterations >= 1, f"`iterations` must be 1 or more; got {iterations}.")
    require_positive(temperature=temperature)
    rows = lax.stop_gradient(rows)
    (columns,) = jax.eval_shape(score, jax.tree.map(lambda leaf: leaf[0], rows)).shape
    block = min(chunk_size(columns) if block is None else block, len(kept))
    excluded = jnp.where(kept, 0.0, -jnp.inf)
    blocks = _blocks((rows, excluded), block)

    offsets = None
    for _ in range(iterations):
        totals = lambda sums, part, offsets=offsets: _add(
            sums, part, score, temperature, offsets
        )
        offsets = -_log_total(totals, blocks, columns, axis_name)
    assert offsets is not None
    return offsets


Sums = tuple[Float[Array, " prototypes"], Float[Array, " prototypes"]]


def _add(
    sums: Sums,
    part: tuple[Any, Float[Array, " rows"]],
    score: Score,
    temperature: ScalarLike,
    offsets: Float[Array, " prototypes"] | None,
) -> Sums:
    """The largest logarithm and the sum of exponentials below it, some rows on."""
    rows, by_row = part
    logits = lax.stop_gradient(jax.vmap(score)(rows)).astype(jnp.float32) / temperature
    if offsets is not None:
        by_row = by_row - jax.nn.logsumexp(logits + offsets, axis=1)
    logarithms = logits + by_row[:, None]
    largest, total = sums
    larger = jnp.maximum(largest, jnp.max(logarithms, axis=0))
    added = jnp.sum(jnp.exp(logarithms - larger), axis=0)
    return larger, total * jnp.exp(largest - larger) + added


def _log_total(
    add: Callable[[Sums, Any], Sums], blocks: Any, columns: int, axis_name: str | None
) -> Float[Array, " prototypes"]:
    """The log of the sum of exponentials over the rows of all blocks and shards."""
    # A finite start: padding alone, at -inf, must leave it where it is.
    lowest = jnp.full(columns, jnp.finfo(jnp.float32).min)
    sums = lowest, jnp.zeros(columns, jnp.float32)
    if axis_name is not None:
        # A carry must vary over the mesh as what is added to it.
        sums = lax.pcast(sums, axis_name, to="varying")
    if len(jax.tree.leaves(blocks)[0]) == 1:
        largest, total = add(sums, jax.tree.map(lambda leaf: leaf[0], blocks))
    else:
        (largest, total), _ = lax.scan(
            lambda sums, part: (add(sums, part), None), sums, blocks
        )
    if axis_name is not None:
        highest = lax.pmax(largest, axis_name)
        total = lax.psum(total * jnp.exp(largest - highest), axis_name)
        largest = highest
    return largest + jnp.log(total)


def _blocks(rows: tuple[Any, Float[Array, " rows"]], block: int) -> Any:
    """`rows` with an axis of blocks in front, filled up with rows that are excluded."""
    tree, excluded = rows
    missing = -len(excluded) % block

    def fill(leaf, value=0.0):
        widths = [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)
        filled = jnp.pad(leaf, widths, constant_values=value) if missing else leaf
        return filled.reshape(-1, block, *leaf.shape[1:])

    return jax.tree.map(fill, tree), fill(excluded, -jnp.inf)
