"""MIND: a sliced Wasserstein distance between two sets of feature vectors, in float64.

Both sets are projected on random directions; on each, the squared Wasserstein distance
of two sorted lists is the mean squared difference. Unlike a Frechet distance it sees
more than means and covariances, and takes fewer samples: 1000 to 5000 say much. In
squared units of the features. Real images are not at distance 0 from others: quote that
floor, of equal counts, beside a distance. https://arxiv.org/abs/2605.06797.
"""

import dataclasses

from jaxtyping import Float, Float64
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.frechet import finite_rows


NUM_DIRECTIONS = 1000  # of the paper
SEED = 0  # ours: of the directions, the same for all sets of one width


@dataclasses.dataclass(frozen=True)
class Projections:
    """Feature vectors on random unit directions of a fixed seed, sorted along each."""

    values: Float64[np.ndarray, "directions count"]
    width: int

    @classmethod
    def of(
        cls,
        features: Float[np.ndarray, "count width"],
        *,
        num_directions: int = NUM_DIRECTIONS,
    ) -> "Projections":
        """Those of the rows of `features`. An error where a value is not finite."""
        rows = finite_rows(features)
        require(
            len(rows) > 0, "`features` (0 rows) must have one or more: evaluate images."
        )
        width = rows.shape[1]
        directions = np.random.default_rng(SEED).normal(size=(num_directions, width))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cls(np.sort(directions @ rows.T, axis=1), width)


def mind(first: Projections, second: Projections) -> float:
    """`3 width` times the mean squared Wasserstein distance over directions.

    Symmetric, and 0 for equal sets. A shift by `d` of many vectors has `3 |d|^2`. The
    paper compares equal counts; of others this is the distance of their shares.
    """
    directions = len(first.values)
    require(
        (first.width, directions) == (second.width, len(second.values)),
        f"`second` ({second.width} features, {len(second.values)} directions) must be "
        f"as wide as `first` ({first.width}, {directions}): use one feature network.",
    )
    count, others = first.values.shape[1], second.values.shape[1]
    # Quantiles of `count` values are a step function; between two of these cuts, in
    # units of 1 / (count * others), both are constant.
    cuts = np.union1d(np.arange(count + 1) * others, np.arange(others + 1) * count)
    shares = np.diff(cuts) / (count * others)
    starts = cuts[:-1]
    steps = first.values[:, starts // others] - second.values[:, starts // count]
    return float(3 * first.width * np.mean(steps**2 @ shares))
