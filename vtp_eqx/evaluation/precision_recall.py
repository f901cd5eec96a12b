"""Scores of samples other than distances: Inception score, precision, recall, ...

All take rows of numpy arrays, in the order in which the samples were made.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np
from scipy.special import rel_entr, softmax

from vtp_eqx.config import require


SPLIT_SIZE = 5000  # ADM's evaluator: samples a split of the Inception score
NUM_NEIGHBORS = 3  # Kynkaanniemi et al. 2019
NUM_DENSITY_NEIGHBORS = 5  # Naeem et al. 2020
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
    real, made = _centered(real, made, num_neighbors)
    return (
        float((count_balls(made, real, radii(real, num_neighbors)) > 0).mean()),
        float((count_balls(real, made, radii(made, num_neighbors)) > 0).mean()),
    )


def neighborhood_scores(
    real: Float[np.ndarray, "real width"],
    made: Float[np.ndarray, "made width"],
    *,
    num_neighbors: int = NUM_DENSITY_NEIGHBORS,
) -> dict[str, float]:
    """Precision and recall as above, density and coverage, by name.

    The density is the number of balls of real images that a sample lies in, over
    `num_neighbors` and averaged: an outlier's large ball counts as one, and it may
    exceed 1. The coverage is the share of real images with a sample in their ball. Of
    two large sets of one law and of equal counts they are 1 and `1 - 2^-num_neighbors`
    on average. Naeem et al. 2020, https://arxiv.org/abs/2002.09797, section 3.
    """
    real, made = _centered(real, made, num_neighbors)
    reach = radii(real, num_neighbors)
    around = count_balls(made, real, reach)
    covered = count_balls(real, made, radii(made, num_neighbors))
    return {
        "precision": float((around > 0).mean()),
        "recall": float((covered > 0).mean()),
        "density": float(around.mean() / num_neighbors),
        "coverage": float((nearest_distances(real, made) <= reach).mean()),
    }


def radii(
    rows: Float[np.ndarray, "count width"], num_neighbors: int
) -> Float[np.ndarray, " count"]:
    """The squared distance of each row to its `num_neighbors`-th nearest other row."""
    nearest = num_neighbors - 1

    def reach(block: np.ndarray, start: int) -> np.ndarray:
        # Faster than XLA's top-k, which takes most of the time on a CPU.
        distances = np.partition(_to_others(block, rows, start), nearest)
        # Copied: a view of one column would keep all distances in memory.
        return distances[:, nearest].copy()

    return _by_block(reach, rows)


def count_balls(
    rows: Float[np.ndarray, "count width"],
    centers: Float[np.ndarray, "centers width"],
    reach: Float[np.ndarray, " centers"],
) -> Int[np.ndarray, " count"]:
    """The number of centers whose ball (squared radius `reach`) has each row in it."""
    return _by_block(lambda block, _: _count(block, centers, reach), rows)


def nearest_distances(
    rows: Float[np.ndarray, "count width"], others: Float[np.ndarray, "others width"]
) -> Float[np.ndarray, " count"]:
    """The squared distance of each row to the nearest of `others`."""
    return _by_block(lambda block, _: _nearest(block, others), rows)


def _by_block(
    function: Callable[[np.ndarray, int], np.ndarray | Array], rows: np.ndarray
) -> np.ndarray:
    """`function(block, start)` of each block of rows, joined."""
    starts = range(0, len(rows), BLOCK)
    return np.concatenate([function(rows[at : at + BLOCK], at) for at in starts])


def _centered(
    real: np.ndarray, made: np.ndarray, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sets around the mean of `real`; an error where a set is too small."""
    for name, rows in (("real", real), ("made", made)):
        require(
            len(rows) > num_neighbors,
            f"A ball ends at neighbor {num_neighbors}, so a set has more members; got "
            f"{len(rows)} `{name}`: evaluate more, or ask for nearer neighbors.",
        )
    # Around their mean, squared distances lose least to rounding.
    center = np.mean(real, axis=0, dtype=np.float64)
    return (real - center).astype(np.float32), (made - center).astype(np.float32)


@jax.jit
def _to_others(block: Array, rows: Array, start: Array) -> Array:
    """Squared distances, infinite to itself, of a block of rows that is at `start`."""
    each = jnp.arange(len(block))
    return _squared_distances(block, rows).at[each, start + each].set(jnp.inf)


@jax.jit
def _count(block: Array, centers: Array, reach: Array) -> Array:
    return jnp.sum(_squared_distances(block, centers) <= reach, axis=1)


@jax.jit
def _nearest(block: Array, others: Array) -> Array:
    return jnp.min(_squared_distances(block, others), axis=1)


def _squared_distances(block: Array, rows: Array) -> Array:
    product = jnp.matmul(block, rows.T, precision=jax.lax.Precision.HIGHEST)
    norms = lambda rows: jnp.sum(rows**2, axis=1)
    return jnp.maximum(norms(block)[:, None] + norms(rows) - 2 * product, 0)
