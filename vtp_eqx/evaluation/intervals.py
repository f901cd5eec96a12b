"""A measured number with a 95% interval and the count of what it is over."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

from jaxtyping import Float, Float64
import numpy as np
from scipy.special import ndtri, stdtrit


RESAMPLES = 400  # ours: of a bootstrap
GROUPS = 10  # ours: that a jackknife leaves out, one after another


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, and how many images or classes it is over."""

    value: float
    low: float
    high: float
    count: int

    def scaled(self, factor: float) -> "Estimate":
        """`factor` times as much."""
        return Estimate(
            self.value * factor, self.low * factor, self.high * factor, self.count
        )


def flat_numbers(panel: Mapping[str, Estimate]) -> dict[str, float]:
    """The same as one mapping, as a card holds it: "X", "X low", "X high", "X N"."""
    return {
        name + suffix: number
        for name, estimate in panel.items()
        for suffix, number in (
            ("", estimate.value),
            (" low", estimate.low),
            (" high", estimate.high),
            (" N", float(estimate.count)),
        )
    }


def ratio(
    numerators: Float[np.ndarray, " count"],
    denominators: Float[np.ndarray, " count"] | None = None,
) -> Estimate:
    """The sum of `numerators` over that of `denominators`, by default their mean.

    Rows with NaN are left out and not counted. The interval is that of `resampled`.
    """
    if denominators is None:
        denominators = np.ones(len(numerators))
    columns = np.stack([numerators, denominators], axis=1).astype(np.float64)
    columns = columns[np.isfinite(columns).all(axis=1)]
    return resampled(lambda sums: sums[..., 0] / sums[..., 1], columns)


def resampled(
    function: Callable[[np.ndarray], np.ndarray],
    columns: Float64[np.ndarray, "count columns"],
) -> Estimate:
    """`function` of the means of columns; `function` acts on the last axis.

    The interval holds 95% of `RESAMPLES` values, each of as many rows drawn with
    repetition (percentile bootstrap). The same rows are drawn for columns of one
    length, so that two tokenizers on the same images are resampled alike.
    """
    count = len(columns)
    draws = function(_bootstrap_weights(count) @ columns)
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float(function(columns.mean(axis=0)))
    return Estimate(value, float(low), float(high), count)


def jackknife(value: float, without: Sequence[float], count: int) -> Estimate:
    """`value` without its bias, from its values `without` each group of the images.

    For eigenvalues of covariances: few images spread them, by as much as there are
    fewer, which this takes out, and which drawing with repetition would add to.
    """
    groups = len(without)
    value -= float((groups - 1) * (np.mean(without) - value))
    error = np.sqrt((groups - 1) * np.var(without))
    reach = float(error * stdtrit(groups - 1, 0.975))
    return Estimate(value, value - reach, value + reach, count)


def share(value: float, count: int) -> Estimate:
    """A share `value` of `count` independent rows, with Wilson's interval."""
    z = float(ndtri(0.975))
    middle = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = value * (1 - value) / count + z**2 / (4 * count**2)
    reach = z * np.sqrt(spread) / (1 + z**2 / count)
    return Estimate(value, float(middle - reach), float(middle + reach), count)


@functools.lru_cache(maxsize=4)
def _bootstrap_weights(count: int) -> Float64[np.ndarray, "resamples count"]:
    """How often each row is drawn, over `count`; a row of weights sums to 1."""
    draw = np.random.default_rng(0)
    rows = draw.integers(count, size=(RESAMPLES, count))
    times = [np.bincount(drawn, minlength=count) for drawn in rows]
    return np.stack(times) / count
