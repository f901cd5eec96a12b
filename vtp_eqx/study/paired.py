"""What can be said of few runs: leads of paired seeds, and what goes with what."""

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Float
import numpy as np
from scipy.stats import rankdata, sem, t as student

from vtp_eqx.study.table import Group


BASELINE = "AE"
_DRAWS = 2000


def pairs(
    found: Mapping[tuple[str, str], Group],
) -> Iterator[tuple[str, str, Group, Group]]:
    """Method and size of a group, and of it and the baseline the runs in pairs."""
    for (method, size), group in found.items():
        base = found.get((BASELINE, size), {})
        shared = sorted(group.keys() & base.keys())
        if method != BASELINE and shared:
            ours, theirs = ({seed: of[seed] for seed in shared} for of in (group, base))
            yield method, size, ours, theirs


def leads(group: Group, base: Group, name: str, *, sign: int = 1) -> list[float]:
    """By how much `group` has more of a number than `base`, for each shared seed.

    Such runs differ by the method, and by what else their size says. With `sign` -1,
    by how much less.
    """
    shared = sorted(group.keys() & base.keys())
    return [sign * (group[seed][name] - base[seed][name]) for seed in shared]


def interval(leads: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean of leads lies with 95% (Student's t); `None` for a single one."""
    if len(leads) < 2:
        return None
    reach = sem(leads) * student.ppf(0.975, len(leads) - 1)
    return float(np.mean(leads) - reach), float(np.mean(leads) + reach)


def rank_correlation(
    first: Sequence[float], second: Sequence[float]
) -> tuple[float, float, float]:
    """Spearman's, and where it lies with 95% when points are drawn again.

    Equal values share their mean rank. NaN where all values of either are equal.
    """
    both = np.array([first, second], float)
    if np.ptp(both, axis=1).min() == 0:
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(first), size=(_DRAWS, len(first)))
    low, high = np.nanquantile(_spearman(both[:, drawn]), (0.025, 0.975))
    return float(_spearman(both)), float(low), float(high)


def _spearman(
    both: Float[np.ndarray, "two *draws points"],
) -> Float[np.ndarray, "*draws"] | np.floating:
    """Of both rows, in every draw; NaN where a draw has one point again and again."""
    ranks = rankdata(both, axis=-1)
    first, second = ranks - ranks.mean(axis=-1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis=-1) / spread
