"""The Frechet distance between two sets of feature vectors, in float64.

Each set is summarised by a Gaussian of the same mean and covariance. The distance is
squared, in squared units of the features, and falls with the number of samples: compare
numbers of equal counts only. Heusel et al. 2017, https://arxiv.org/abs/1706.08500.
"""

import dataclasses

from jaxtyping import Float, Float64, Int
import numpy as np

from vtp_eqx.config import require


NUM_COMPONENTS = 16  # ours: of features, for distances of a hundred vectors


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of a set of feature vectors; sets add with `+`.

    `scatter` is the sum of outer products of centred vectors, so that moments of parts
    merge without cancellation (Chan et al. 1979, equation 2.1).
    """

    count: int
    mean: Float[np.ndarray, " width"]
    scatter: Float[np.ndarray, "width width"]

    @classmethod
    def of(
        cls,
        features: Float[np.ndarray, "count width"],
        weights: Float[np.ndarray, " count"] | None = None,
    ) -> "Moments":
        """Moments of the rows of `features`. An error where a value is not finite.

        With `weights`, whose mean is 1, a row counts as so many.
        """
        rows = finite_rows(features)
        if len(rows) == 0:
            width = rows.shape[1]
            return cls(0, np.zeros(width), np.zeros((width, width)))
        mean = np.average(rows, axis=0, weights=weights)
        centered = rows - mean
        weighted = centered if weights is None else weights[:, None] * centered
        return cls(len(rows), mean, centered.T @ weighted)

    @classmethod
    def from_statistics(
        cls,
        mean: Float[np.ndarray, " width"],
        covariance: Float[np.ndarray, "width width"],
        count: int,
    ) -> "Moments":
        """The moments of `count` vectors with this mean and unbiased covariance."""
        covariance = covariance.astype(np.float64)
        require(
            bool(np.isfinite(mean).all() and np.isfinite(covariance).all()),
            "Statistics must be finite; got NaN or infinity: check their file.",
        )
        require(
            np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6),
            "A covariance is symmetric; got one that is not: check its file.",
        )
        scatter = (covariance + covariance.T) / 2 * (count - 1)
        return cls(count, mean.astype(np.float64), scatter)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the union of both sets."""
        _check_widths(self, other)
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        return Moments(
            count,
            self.mean + step * (other.count / count),
            self.scatter + other.scatter + between,
        )

    @property
    def covariance(self) -> Float[np.ndarray, "width width"]:
        """The unbiased covariance. An error below two vectors."""
        require(
            self.count > 1,
            f"A covariance takes at least 2 feature vectors; got {self.count}: "
            "evaluate more images.",
        )
        return self.scatter / (self.count - 1)


def finite_rows(
    features: Float[np.ndarray, "count width"],
) -> Float64[np.ndarray, "count width"]:
    """The rows of `features` in float64. An error where a value is not finite."""
    rows = np.asarray(features, dtype=np.float64)
    bad = int((~np.isfinite(rows)).any(axis=1).sum())
    require(
        bad == 0,
        f"Features must be finite; got {bad} rows of {len(rows)} with NaN or "
        "infinity: look at the images they come from.",
    )
    return rows


def frechet_distance(first: Moments, second: Moments) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2))`: symmetric, and 0 for equal moments.

    The trace of the root is the sum of the singular values of `F1' F2`, where
    `C = F F'`. Unlike a root of the product, that needs neither full rank nor an offset
    on the diagonal, and a null space costs nothing.
    """
    _check_widths(first, second)
    left, right = factor(first.covariance), factor(second.covariance)
    overlap = np.linalg.svd(left.T @ right, compute_uv=False).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap
    shift = np.sum((first.mean - second.mean) ** 2)
    # Rounding can leave equal moments a hair below zero, where no distance is.
    return float(max(shift + spread, 0.0))


def class_frechet_distance(
    first: Float[np.ndarray, "count width"],
    first_labels: Int[np.ndarray, " count"],
    second: Float[np.ndarray, "others width"],
    second_labels: Int[np.ndarray, " others"],
    *,
    num_components: int = NUM_COMPONENTS,
) -> float:
    """The mean over classes of the distance within a class, in principal components.

    Of the components of all of `first`, because few vectors of each class say little
    of many features. It sees a class whose images are too much alike, which pooled
    moments hide. Still a small-sample number: with 100 to 200 vectors a class, that of
    two sets of one law is far from 0, and rises as they get fewer. Compare numbers of
    equal counts alone, with the floor of real images beside them.
    """
    require(
        np.array_equal(np.unique(first_labels), np.unique(second_labels)),
        f"`second_labels` ({len(np.unique(second_labels))} classes) must be of the "
        f"classes of `first_labels` ({len(np.unique(first_labels))}): evaluate images "
        "of every class.",
    )
    _, vectors = np.linalg.eigh(Moments.of(first).covariance)
    components = vectors[:, -num_components:]
    first, second = finite_rows(first) @ components, finite_rows(second) @ components
    distances = [
        frechet_distance(
            Moments.of(first[first_labels == label]),
            Moments.of(second[second_labels == label]),
        )
        for label in np.unique(first_labels)
    ]
    return float(np.mean(distances))


def _check_widths(first: Moments, second: Moments) -> None:
    require(
        first.mean.size == second.mean.size,
        f"Features must have one width; got {first.mean.size} and {second.mean.size}: "
        "use one feature network.",
    )


def self_test() -> None:
    """Raises `ArithmeticError` where this machine gets known distances wrong.

    Linear algebra libraries have returned wrong roots without an error (LightningDiT
    issue 97), so that this is called before a distance is printed: a set to itself, two
    Gaussians worked by hand, and covariances of lower rank than their width.
    """
    rng = np.random.default_rng(0)
    wide = Moments.of(rng.normal(size=(300, 200)) @ rng.normal(size=(200, 200)))
    few = Moments.of(rng.normal(size=(20, 200)))
    # Axes (1, 2) against (4, 2), 3 and 4 apart: 9 + 16 + (1 - 4)^2 + 0 = 34.
    one = Moments(2, np.zeros(2), np.diag([1.0, 4.0]))
    other = Moments(2, np.array([3.0, 4.0]), np.diag([16.0, 4.0]))
    point = Moments(2, np.zeros(200), np.zeros((200, 200)))
    size = lambda moments: float(np.trace(moments.covariance))
    for what, got, expected, scale in (
        ("a set to itself", frechet_distance(wide, wide), 0.0, size(wide)),
        ("a set of low rank to itself", frechet_distance(few, few), 0.0, size(few)),
        ("two Gaussians", frechet_distance(one, other), 34.0, 34.0),
        (
            "a set of low rank to a point",
            frechet_distance(few, point),
            float(few.mean @ few.mean) + size(few),
            size(few),
        ),
    ):
        if not abs(got - expected) <= 1e-9 * scale:
            raise ArithmeticError(
                f"The distance of {what} is {expected}; got {got} on this machine: "
                "its linear algebra is at fault, install numpy again."
            )


def factor(
    covariance: Float[np.ndarray, "width width"],
) -> Float[np.ndarray, "width rank"]:
    """`F` with `F F' = covariance`, one column for each eigenvalue above rounding."""
    values, vectors = np.linalg.eigh(covariance)
    rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    kept = values > rounding
    return vectors[:, kept] * np.sqrt(values[kept])
