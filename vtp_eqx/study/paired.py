"""Methods beside the baseline, seed by seed: such runs differ by the method alone."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import sem, t as student

from vtp_eqx.study.table import Group, mean


BASELINE = "AE"


def leads(group: Group, base: Group, name: str, *, sign: int = 1) -> list[float]:
    """By how much `group` has more of a number than `base`, for each shared seed.

    With `sign` -1, by how much less. Where no seed is shared, one lead: of means.
    """
    shared = sorted(group.keys() & base.keys())
    if not shared:
        return [sign * (mean(group, name) - mean(base, name))]
    return [sign * (group[seed][name] - base[seed][name]) for seed in shared]


def interval(leads: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean of leads lies with 95% (Student's t); `None` for a single one."""
    if len(leads) < 2:
        return None
    reach = sem(leads) * student.ppf(0.975, len(leads) - 1)
    return float(np.mean(leads) - reach), float(np.mean(leads) + reach)
