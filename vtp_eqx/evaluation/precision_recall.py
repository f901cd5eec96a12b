"""Scores of samples other than distances: Inception score, precision and recall.

All take rows of numpy arrays, in the order in which the samples were made.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
import numpy as np
from scipy.special import rel_entr, softmax

from vtp_eqx.config import require


SPLIT_SIZE = 5000  # ADM's evaluator: samples a split of the Inception score
NUM_NEIGHBORS = 3  # Kynkaanniemi et al. 2019
BLOCK = 1024  # rows compared at a time with all others


def inception_score(
    logits: Float[np.ndarray, "count classes"], *, split_size: int = SPLIT_SIZE
) -> float:
    """`exp(mean KL(p(class | image), p(class)))`, averaged over consecutive splits.

    Between 1 and the number of classes. Rises with the size of a split, so compare
    numbers of equal ones. Salimans et al. 2016, https://arxiv.org/abs/1606.03498,
    section 4; called so only where the logits are Inception's.
    """
    scores = []
    for start in range(0, len(logits), split_size):
        rows = logits[start : start + split_size].astype(np.float64)
        shares = softmax(rows, axis=1)
        divergence = rel_entr(shares, shares.mean(axis=0)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def precision_and_recall(
    real: Float[np.ndarray, "real width"],
    made: Float[np.ndarray, "made width"],
    *,
    num_neighbors: int = NUM_NEIGHBORS,
) -> tuple[float, float]:
    """The share of samples among real images, and of real images among samples.

    A set reaches as far as the balls around its members that end at their
    `num_neighbors`-th nearest other member. Depends on both counts: compare numbers of
    equal ones. Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991, section 2.
    """
    for name, rows in (("real", real), ("made", made)):
        require(
            len(rows) > num_neighbors,
            f"A ball ends at neighbor {num_neighbors}, so a set has more members; got "
            f"{len(rows)} `{name}`: evaluate more, or ask for nearer neighbors.",
        )
    # Around their mean, squared distances lose least to rounding.
    center = np.mean(real, axis=0, dtype=np.float64)
    real, made = ((rows - center).astype(np.float32) for rows in (real, made))
    return (
        float(within(made, real, radii(real, num_neighbors)).mean()),
        float(within(real, made, radii(made, num_neighbors)).mean()),
    )


def radii(
    rows: Float[np.ndarray, "count width"], num_neighbors: int
) -> Float[np.ndarray, " count"]:
    """The squared distance of each row to its `num_neighbors`-th nearest other row."""
    parts = [
        _kth(rows[start : start + BLOCK], rows, start, num_neighbors)
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(parts)


def within(
    rows: Float[np.ndarray, "count width"],
    centers: Float[np.ndarray, "centers width"],
    reach: Float[np.ndarray, " centers"],
) -> Bool[np.ndarray, " count"]:
    """Whether each row lies in the ball (squared radius `reach`) of any center."""
    parts = [
        _inside(rows[start : start + BLOCK], centers, reach)
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=3)
def _kth(block: Array, rows: Array, start: Array, num_neighbors: int) -> Array:
    """As `radii`, of a block of rows that begins at row `start`."""
    each = jnp.arange(len(block))
    squared = _squared_distances(block, rows).at[each, start + each].set(jnp.inf)
    return -jax.lax.top_k(-squared, num_neighbors)[0][:, -1]


@jax.jit
def _inside(block: Array, centers: Array, reach: Array) -> Array:
    return jnp.any(_squared_distances(block, centers) <= reach, axis=1)


def _squared_distances(block: Array, rows: Array) -> Array:
    product = jnp.matmul(block, rows.T, precision=jax.lax.Precision.HIGHEST)
    norms = lambda rows: jnp.sum(rows**2, axis=1)
    return jnp.maximum(norms(block)[:, None] + norms(rows) - 2 * product, 0)
