"""What the covariance of latents says of a flow model's loss: VIV and its parts.

A velocity `x1 - x0` on the straight path from noise `x0` to latents `x1` cannot be
known from the point `x_t` alone. For Gaussian latents whose covariance has eigenvalues
`l`, the mean squared error that stays is the mean over eigenvalues of
`l / ((1 - t)^2 + t^2 l)`. For any other law with that covariance less may stay: it is
the lowest loss that a model of the covariance alone can have, and no more than that.

Latents are standardized by channel, as generators learn them. VIV, the velocity
irreducible variance of "Diffusing in the Right Space" (2606.03578), is that error for
uniform times with the covariance within a class, averaged over classes.
"""

from collections.abc import Callable
import dataclasses

from jaxtyping import Float, Float64, Int
import numpy as np

from vtp_eqx.evaluation.intervals import Estimate, GROUPS, jackknife, ratio, resampled


Tokens = Float[np.ndarray, "count positions channels"]
Eigenvalues = Float64[np.ndarray, " numbers"]

ROUNDS = 5  # of the two fits in turn; of an implementation of the paper's measures
RIDGE = 1e-6  # ours: of the mean variance, before a factor is inverted
MIN_CLASS = 4  # images that a class must have, as there
FEW = 20  # ours: images of a class below which its covariance is rough
MAX_EXACT = 2048  # ours: numbers an image, beyond which no full covariance is taken
EXACT_RATIO = 2  # ours: images that it takes for each of these numbers
NODES = 80  # ours: of the quadrature over logit-normal times


def exact_eigenvalues(centered: Tokens, freedom: float) -> Eigenvalues:
    """Eigenvalues of the full covariance of centered rows, from the largest."""
    rows = centered.reshape(len(centered), -1).astype(np.float64)
    return _eigenvalues(rows.T @ rows / freedom)


def kronecker_eigenvalues(centered: Tokens, freedom: float) -> Eigenvalues:
    """The same, of a covariance that is a product of one of positions, one of channels.

    The product of maximal likelihood (Dutilleul 1999), fitted in turn and scaled to
    the measured variance. It takes many fewer images than the full covariance.
    """
    rows = centered.astype(np.float64)
    count, positions, channels = rows.shape
    variance = np.sum(rows**2) / freedom
    of_positions, of_channels = np.eye(positions), np.eye(channels)
    for _ in range(ROUNDS):
        weighted = _inverse(of_positions) @ rows
        of_channels = np.tensordot(rows, weighted, ((0, 1), (0, 1)))
        of_channels /= count * positions
        weighted = rows @ _inverse(of_channels)
        of_positions = np.tensordot(weighted, rows, ((0, 2), (0, 2)))
        of_positions /= count * channels
    products = np.outer(_eigenvalues(of_positions), _eigenvalues(of_channels)).ravel()
    total = products.sum()
    scale = variance / total if total > 0 else 0.0
    return np.sort(products)[::-1] * scale


def velocity_variance(
    eigenvalues: Eigenvalues, *, times: tuple[float, float] | None = None
) -> float:
    """The part of a squared velocity that stays unknown, averaged over its numbers.

    `times` are uniform where `None`, else logit-normal of this mean and deviation.
    At most `pi / 2` for uniform times where the mean eigenvalue is 1.
    """
    if times is None:
        return float(np.pi / 2 * np.mean(np.sqrt(eigenvalues)))
    mean, deviation = times
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    stays = [
        np.mean(eigenvalues / ((1 - t) ** 2 + t**2 * eigenvalues))
        for t in 1 / (1 + np.exp(-(mean + deviation * nodes)))
    ]
    return float(np.dot(weights / weights.sum(), stays))


def participation_ratio(eigenvalues: Eigenvalues) -> float:
    """How many equal eigenvalues would spread as much: `(sum l)^2 / sum l^2`."""
    return float(eigenvalues.sum() ** 2 / np.sum(eigenvalues**2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassCovariances:
    """The parts of VIV of each class, and how many images the smallest one has.

    `spread` is the variance within the class, of the total 1 for standardized latents.
    `exact` is there where every class has images enough for its full covariance.
    """

    variance: Float64[np.ndarray, " classes"]
    spread: Float64[np.ndarray, " classes"]
    exact: Float64[np.ndarray, " classes"] | None
    least: int

    def panel(self) -> dict[str, Estimate]:
        """VIV with its factors; intervals are those of drawing other classes.

        `VIV = pi / 2 * sqrt(spread) * shape`: how far a class spreads, and in how many
        directions, where the shape is 1 if it is equally far in all.
        """
        columns = np.stack([self.variance, self.spread], axis=1)
        shape = lambda means: means[..., 0] / (np.pi / 2 * np.sqrt(means[..., 1]))
        panel = {
            "VIV": ratio(self.variance),
            "VIV spread": ratio(self.spread),
            "VIV shape": resampled(shape, columns),
        }
        if self.exact is not None:
            panel["VIV exact"] = ratio(self.exact)
        return panel


def class_covariances(
    tokens: Tokens, labels: Int[np.ndarray, " count"]
) -> ClassCovariances | None:
    """The covariances within classes; those of fewer than `MIN_CLASS` are left out.

    `None` where no class has as many, or too few for a product of covariances.
    Variances are unbiased.
    """
    _, positions, channels = tokens.shape
    needed = max(MIN_CLASS, channels // positions + 1, positions // channels + 1)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = [members for members in rows if len(members) >= needed]
    if not rows:
        return None
    least = min(map(len, rows))
    variances, spreads, exacts = [], [], []
    for members in rows:
        centered = tokens[members] - tokens[members].mean(axis=0)
        eigenvalues = kronecker_eigenvalues(centered, len(members) - 1)
        variances.append(velocity_variance(eigenvalues))
        spreads.append(eigenvalues.mean())
        if can_be_exact(tokens, least):
            exact = exact_eigenvalues(centered, len(members) - 1)
            exacts.append(velocity_variance(exact))
    return ClassCovariances(
        variance=np.array(variances),
        spread=np.array(spreads),
        exact=np.array(exacts) if exacts else None,
        least=least,
    )


def can_be_exact(tokens: Tokens, count: int) -> bool:
    """Whether `count` images are enough for the full covariance of these latents."""
    width = tokens.shape[1] * tokens.shape[2]
    return width <= MAX_EXACT and count >= EXACT_RATIO * width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Eigenvalues of one covariance of all images, and without a tenth of them each."""

    all: Eigenvalues
    without: list[Eigenvalues]
    count: int

    def estimate(self, function: Callable[[Eigenvalues], float]) -> Estimate:
        """`function` of these eigenvalues, with the interval of a jackknife."""
        without = [function(part) for part in self.without]
        return jackknife(function(self.all), without, self.count)


def spectrum(
    tokens: Tokens, labels: Int[np.ndarray, " count"] | None = None, *, is_exact: bool
) -> Spectrum:
    """The spectrum of all latents, or of what stays of them without their class means.

    The full covariance where `is_exact`, else a product of two.
    """
    centered, freedom = _without_means(tokens, labels)
    # Images of one class may lie side by side: a part takes some of each.
    part = np.arange(len(tokens)) % GROUPS
    shares = [freedom * np.mean(part != group) for group in range(GROUPS)]
    if is_exact:
        rows = centered.reshape(len(centered), -1)
        groups = [rows[part == group] for group in range(GROUPS)]
        scatters = [members.T @ members for members in groups]
        total = np.sum(scatters, axis=0)
        whole = _eigenvalues(total / freedom)
        without = [
            _eigenvalues((total - scatter) / share)
            for scatter, share in zip(scatters, shares, strict=True)
        ]
    else:
        whole = kronecker_eigenvalues(centered, freedom)
        without = [
            kronecker_eigenvalues(centered[part != group], share)
            for group, share in enumerate(shares)
        ]
    return Spectrum(all=whole, without=without, count=len(tokens))


def gaussian_flow_loss(
    tokens: Tokens,
    labels: Int[np.ndarray, " count"],
    *,
    times: tuple[float, float] | None = None,
) -> float:
    """The lowest squared flow loss, class known, that Gaussian latents allow.

    Of one covariance for all classes, around their means: the full one where there are
    images enough, else a product of two. A bound from above for latents of any other
    law: what a model's loss is above it is unlearned, and what it is below comes of
    structure beyond the covariance. `times` as in `velocity_variance`.

    A covariance of few images allows too low a loss, by nearly twice as much for half
    of them: twice the bound of all less the mean of that of two halves has it no more.
    """
    centered, freedom = _without_means(tokens, labels)
    is_exact = can_be_exact(tokens, len(tokens))
    eigenvalues = exact_eigenvalues if is_exact else kronecker_eigenvalues
    bound = lambda rows, freedom: velocity_variance(
        eigenvalues(rows, freedom), times=times
    )
    half = np.random.default_rng(0).permutation(len(tokens)) % 2
    share = [freedom * np.mean(half == part) for part in (0, 1)]
    of_halves = [bound(centered[half == part], share[part]) for part in (0, 1)]
    return 2 * bound(centered, freedom) - float(np.mean(of_halves))


def _without_means(
    tokens: Tokens, labels: Int[np.ndarray, " count"] | None
) -> tuple[Tokens, int]:
    """Latents in float64 without the mean of each class, and degrees of freedom."""
    centered = tokens.astype(np.float64)
    groups = np.zeros(len(tokens), np.int64) if labels is None else labels
    values = np.unique(groups)
    for value in values:
        members = groups == value
        centered[members] -= centered[members].mean(axis=0)
    return centered, len(tokens) - len(values)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    width = len(matrix)
    ridge = RIDGE * np.trace(matrix) / width
    # Latents that do not vary at all have no inverse; any will do.
    return np.linalg.inv(matrix + (ridge or 1.0) * np.eye(width))


def _eigenvalues(matrix: np.ndarray) -> Eigenvalues:
    """From the largest; rounding below 0 is 0."""
    return np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0)
