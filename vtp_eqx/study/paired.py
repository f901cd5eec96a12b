"""What can be said of few runs: leads of paired seeds, and what goes with what."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, sem, t as student

from vtp_eqx.study.table import Group


BASELINE = "AE"
_DRAWS = 2000


def leads(group: Group, base: Group, name: str, *, sign: int = 1) -> list[float]:
    """By how much `group` has more of a number than `base`, for each shared seed.

    Such runs differ by the method alone. With `sign` -1, by how much less.
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
    pairs = np.array([first, second], float)
    if np.ptp(pairs, axis=1).min() == 0:
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(first), size=(_DRAWS, len(first)))
    again = [_spearman(pairs[:, rows]) for rows in drawn]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return _spearman(pairs), float(low), float(high)


def _spearman(pairs: np.ndarray) -> float:
    if np.ptp(pairs, axis=1).min() == 0:  # one point, drawn again and again
        return float("nan")
    return float(np.corrcoef(rankdata(pairs, axis=1))[0, 1])
