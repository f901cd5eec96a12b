"""Plain sentences about the numbers of a study."""

from collections.abc import Sequence

import numpy as np

from vtp_eqx.study.measure import at_budget
from vtp_eqx.study.statistics import (
    BASELINE,
    confidence_interval,
    Groups,
    interpolated,
    mean,
    paired_differences,
    pairs,
    steps_to_reach,
)
from vtp_eqx.study.table import (
    finished_rows,
    groups,
    num_runs,
    real_distance,
    Row,
)


def progress_sentence(rows: Sequence[Row]) -> list[str]:
    """How many runs are finished, where some are missing."""
    done, planned = num_runs(finished_rows(rows)), num_runs(rows)
    if done == planned:
        return []
    return [f"{done} of {planned} runs are finished; what follows is about those."]


def baseline_sentences(rows: Sequence[Row], method: str) -> list[str]:
    """A method beside the baseline at each setting, in two numbers."""
    found = groups(rows)
    parts = []
    for name, setting, group, base in pairs(found):
        if name != method:
            continue
        ahead = paired_differences(group, base, "FD-scenes", sign=-1)
        part = (
            f"{setting}: {mean(group, 'FD-scenes'):.1f} against "
            f"{mean(base, 'FD-scenes'):.1f}, {_verdict(ahead)}"
        )
        right = paired_differences(group, base, "class accuracy", sign=100)
        if right:
            part += f", class right {_signed(right)} points"
        parts.append(part)
    if not parts:
        return []
    return [
        f"FD-scenes of {method} beside {BASELINE} (lower is better; real scenes have "
        f"{real_distance(rows):.1f}): {'; '.join(parts)}."
    ]


def trend_sentence(
    rows: Sequence[Row], methods: Sequence[str], along: str
) -> list[str]:
    """The change of FD-scenes and PSNR from the first setting to the last."""
    found = groups(rows)
    parts = []
    for method in methods:
        settings = [setting for of, setting in found if of == method]
        if len(settings) < 2:
            continue
        first, last = found[method, settings[0]], found[method, settings[-1]]
        distance = paired_differences(last, first, "FD-scenes")
        pixels = paired_differences(last, first, "PSNR")
        if distance:
            parts.append(
                f"{method}: FD-scenes {_signed(distance)}, PSNR {_signed(pixels)} dB "
                f"from {settings[0]} to {settings[-1]}"
            )
    return [f"Along {along}: {'; '.join(parts)}."] if parts else []


def frontier_sentence(rows: Sequence[Row], method: str) -> list[str]:
    """The baseline's FD minus a method's at equal PSNR, seed by seed."""
    found = groups(rows)
    base = _curves(found, BASELINE)
    ours = _curves(found, method)
    parts = []
    for setting in [setting for of, setting in found if of == method]:
        gaps = []
        for seed, points in ours.items():
            if setting not in points or seed not in base:
                continue
            psnr, distance = points[setting]
            x, y = zip(*base[seed].values(), strict=True)
            theirs = interpolated(x, y, psnr)
            if theirs is not None:
                gaps.append(theirs - distance)
        if gaps:
            at = mean(found[method, setting], "PSNR")
            parts.append(f"{setting} ({at:.1f} dB): {_signed(gaps)}")
    if not parts:
        return []
    return [
        f"At equal PSNR, FD-scenes of {method} is lower than that of {BASELINE} by "
        f"{'; '.join(parts)} (negative: higher)."
    ]


def convergence_sentence(rows: Sequence[Row], goal: str) -> list[str]:
    """After how many generator steps others have the FD-scenes that `goal` ends with.

    Of the same seed: a method's range over seeds, and how many times fewer steps.
    """
    budgets = rows[0].spec.budgets
    ends = {
        row.spec.seed: row.result.numbers["FD-scenes"]
        for row in finished_rows(rows)
        if row.spec.method == goal and row.result is not None
    }
    parts = []
    for (method, _), group in groups(rows).items():
        shared = sorted(group.keys() & ends.keys())
        if method == goal or not shared:
            continue
        reached = [
            steps_to_reach(
                budgets,
                [group[seed][at_budget("FD-scenes", steps)] for steps in budgets],
                ends[seed],
            )
            for seed in shared
        ]
        parts.append(f"{method} {_reached(reached, budgets)}")
    if not parts:
        return []
    return [
        f"Generator steps to the FD-scenes that {goal} of the same seed has after "
        f"{budgets[-1]}: {'; '.join(parts)}."
    ]


def _reached(steps: Sequence[float | None], budgets: Sequence[int]) -> str:
    found = sorted(one for one in steps if one is not None)
    if not found:
        return "not reached"
    few, many = found[0], found[-1]
    least = "at most " if few == budgets[0] else ""
    text = f"{few:.0f} to {many:.0f}" if few < many else f"{few:.0f}"
    fast = [f"{budgets[-1] / one:.1f}" for one in (many, few)]
    times = fast[0] if fast[0] == fast[1] else " to ".join(fast)
    count = f", in {len(found)} of {len(steps)} seeds"
    some = count if len(found) < len(steps) else ""
    return f"{least}{text} ({times} times as fast){some}"


def _curves(found: Groups, method: str) -> dict[int, dict[str, tuple[float, float]]]:
    """PSNR and FD-scenes of a method, by seed and setting."""
    curves: dict[int, dict[str, tuple[float, float]]] = {}
    for (of, setting), group in found.items():
        if of == method:
            for seed, numbers in group.items():
                point = numbers["PSNR"], numbers["FD-scenes"]
                curves.setdefault(seed, {})[setting] = point
    return curves


def _verdict(differences: Sequence[float]) -> str:
    """Better or worse, where 0 is outside the 95% interval of the mean."""
    bounds = confidence_interval(differences)
    if bounds is None:
        return "one seed"
    if bounds[0] > 0:
        return "better"
    return "worse" if bounds[1] < 0 else "no significant difference"


def _signed(values: Sequence[float]) -> str:
    text = f"{np.mean(values):+.1f}"
    bounds = confidence_interval(values)
    if bounds is None or len(values) < 3:
        return text
    return f"{text} ({bounds[0]:+.1f} to {bounds[1]:+.1f})"
