"""Statistics of few seeds: paired differences and matched comparisons."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import sem, t as student


BASELINE = "AE"

Group = Mapping[int, Mapping[str, float]]  # the numbers of runs, by seed
Groups = Mapping[tuple[str, str], Group]


def mean(group: Group, name: str) -> float:
    """A number's mean over seeds."""
    return float(np.mean([numbers[name] for numbers in group.values()]))


def pairs(
    found: Groups, baseline: str = BASELINE
) -> Iterator[tuple[str, str, Group, Group]]:
    """Method and setting, its runs and the baseline's, of the seeds both have."""
    for (method, setting), group in found.items():
        base = found.get((baseline, setting), {})
        shared = sorted(group.keys() & base.keys())
        if method != baseline and shared:
            ours, theirs = ({seed: of[seed] for seed in shared} for of in (group, base))
            yield method, setting, ours, theirs


def paired_differences(
    group: Group, base: Group, name: str, *, sign: float = 1.0
) -> list[float]:
    """`sign` times `group` minus `base` in a number, for each shared seed."""
    return [
        sign * (group[seed][name] - base[seed][name])
        for seed in sorted(group.keys() & base.keys())
        if name in group[seed] and name in base[seed]
    ]


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval of the mean (Student's t); `None` for a single value."""
    if len(values) < 2:
        return None
    reach = sem(values) * student.ppf(0.975, len(values) - 1)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def format_mean(values: Sequence[float], form: str = "+.1f") -> str:
    """The mean of differences, with its 95% interval where there are three or more."""
    text = format(float(np.mean(values)), form)
    bounds = confidence_interval(values)
    if bounds is None or len(values) < 3:
        return text
    low, high = (format(bound, form) for bound in bounds)
    return f"{text} ({low} to {high})"


def seed_deviation(group: Group, base: Group, name: str) -> float | None:
    """The pooled deviation of seeds within two groups; `None` without two seeds."""
    squares, freedom = 0.0, 0
    for part in (group, base):
        values = [numbers[name] for numbers in part.values() if name in numbers]
        if len(values) > 1:
            squares += float(np.var(values)) * len(values)
            freedom += len(values) - 1
    return (squares / freedom) ** 0.5 if freedom and squares > 0 else None


def interpolated(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """`y` at `at` on the polyline through the points; `None` beyond its ends in `x`."""
    order = np.argsort(x)
    xs, ys = np.asarray(x, float)[order], np.asarray(y, float)[order]
    if not len(xs) or not xs[0] <= at <= xs[-1]:
        return None
    return float(np.interp(at, xs, ys))


def steps_to_reach(
    steps: Sequence[float], distances: Sequence[float], target: float
) -> float | None:
    """The steps after which a distance that falls with training first is `target`.

    Between two points, both axes are logarithmic, as in a figure of convergence. The
    first of `steps` where it was there already, and `None` where it never was.
    """
    reached = [at for at, distance in enumerate(distances) if distance <= target]
    if not reached:
        return None
    after = reached[0]
    if after == 0:
        return float(steps[0])
    before = slice(after - 1, after + 1)
    x, y = np.log(np.asarray(steps[before])), np.log(np.asarray(distances[before]))
    share = (y[0] - np.log(target)) / (y[0] - y[1])
    return float(np.exp(x[0] + share * (x[1] - x[0])))
