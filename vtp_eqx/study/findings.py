"""What follows from the table of a study, sentence by sentence; the bad news first."""

from collections.abc import Callable, Sequence

import numpy as np

from vtp_eqx.study.paired import BASELINE, interval, leads, pairs, rank_correlation
from vtp_eqx.study.point import point_hash
from vtp_eqx.study.table import (
    finished,
    floor,
    Group,
    groups,
    mean,
    methods,
    num_runs,
    Row,
)


def scaling_findings(rows: Sequence[Row]) -> list[str]:
    """Of curves: methods beside the baseline, size by size, and along the curve."""
    return _findings(rows, _comparisons, _turns, _courses, _seeds)


def objective_findings(rows: Sequence[Row]) -> list[str]:
    """Of methods: beside the baseline, and what goes with generation over all runs."""
    return _findings(rows, _comparisons, _orders, _seeds, _correlations)


def paired_findings(rows: Sequence[Row]) -> list[str]:
    """Of few methods with many seeds: each beside the baseline, pair by pair."""
    return _findings(rows, _comparisons, _orders, _seeds)


def _findings(
    rows: Sequence[Row], *own: Callable[[Sequence[Row]], list[str]]
) -> list[str]:
    """What `own` say of the finished runs, then what is said in every study."""
    done = finished(rows)
    if not done:
        return ["Nothing is finished yet."]
    missing, planned = num_runs(rows) - num_runs(done), num_runs(rows)
    lines = [] if missing == 0 else [
        f"{missing} of {planned} runs are not finished: what follows is about the "
        "others."
    ]  # fmt: skip
    for part in (*own, _understanding, _reconstruction, _obedience, _floor):
        lines += part(done)
    return lines


def _comparisons(rows: Sequence[Row]) -> list[str]:
    """Each method beside the baseline at its size, what is furthest behind first."""
    said = []
    intervals = 0
    for method, size, group, base in pairs(groups(rows)):
        ahead = leads(group, base, "FD-scenes", sign=-1)
        better = leads(group, base, "class agreement", sign=100)
        ours, theirs = mean(group, "FD-scenes"), mean(base, "FD-scenes")
        shown = [mean(part, "class agreement") for part in (group, base)]
        line = (
            f"{size}: {method} {_verdict(ahead)} {BASELINE} in FD-scenes, {ours:.2f} "
            f"against {theirs:.2f} ({_pairs(ahead, '+.2f')}); its samples show the "
            f"class asked for in {shown[0]:.0%}, {BASELINE}'s in {shown[1]:.0%} "
            f"({_pairs(better, '+.1f')})"
        )
        compute = mean(base, "FLOPs")
        if compute > 0 and mean(group, "FLOPs") > 0:
            line += f"; at {mean(group, 'FLOPs') / compute:.1f} times the compute"
        said.append((np.mean(ahead), f"{line}."))
        intervals += sum(interval(lead) is not None for lead in (ahead, better))
    lines = [line for _, line in sorted(said, key=lambda pair: pair[0])]
    if intervals > 4:
        lines.append(
            f"Each of these {intervals} intervals holds for itself; if nothing "
            f"differed, {intervals / 20:.1f} of so many would leave out 0 all the same."
        )
    return lines


def _turns(rows: Sequence[Row]) -> list[str]:
    """Where along the curve a method is behind the baseline, and where ahead."""
    verdicts = {
        (method, size): _verdict(leads(group, base, "FD-scenes", sign=-1))
        for method, size, group, base in pairs(groups(rows))
    }
    lines = []
    for method in methods(rows):
        places: dict[str, list[str]] = {}
        for size in _sizes(rows, method):
            if (method, size) in verdicts:
                places.setdefault(verdicts[method, size], []).append(size)
        if len(places) > 1:
            parts = [
                f"{verdict} it at {', '.join(at)}" for verdict, at in places.items()
            ]
            lines.append(f"{method} beside {BASELINE}: {'; '.join(parts)}.")
    return lines


def _courses(rows: Sequence[Row]) -> list[str]:
    """How reconstruction and generation of each method go along its curve."""
    found = groups(rows)
    lines = []
    for method in methods(rows):
        sizes = _sizes(rows, method)
        if len(sizes) < 2:
            continue
        along = [found[method, size] for size in sizes]
        lines.append(
            f"{method} from {sizes[0]} to {sizes[-1]}: PSNR "
            f"{_course(along, 'PSNR', '.1f')}; FD-scenes "
            f"{_course(along, 'FD-scenes', '.2f')}; class shown "
            f"{_course(along, 'class agreement', '.2f')}."
        )
    return lines


def _orders(rows: Sequence[Row]) -> list[str]:
    """The order of methods at each size, best first, with the spread of seeds."""
    found = groups(rows)
    lines = []
    for size in dict.fromkeys(row.point.size for row in rows):
        own = {method: group for (method, at), group in found.items() if at == size}
        ranked = sorted(own, key=lambda method: mean(own[method], "FD-scenes"))
        names = [f"{method} {_with_spread(own[method])}" for method in ranked]
        if len(names) > 1:
            lines.append(f"{size}, best FD-scenes first: {', '.join(names)}.")
    return lines


def _seeds(rows: Sequence[Row]) -> list[str]:
    """How far leads of pairs with one seed scatter."""
    scatter = [
        np.std(ahead, ddof=1)
        for _, _, group, base in pairs(groups(rows))
        for ahead in [leads(group, base, "FD-scenes", sign=-1)]
        if len(ahead) > 1
    ]
    if not scatter:
        return [
            "No method has two seeds in pairs with the baseline, so that the spread of "
            "leads is unknown: no difference is shown, and no trend."
        ]
    return [
        f"Leads in FD-scenes of pairs with one seed have a standard deviation of "
        f"{np.median(scatter):.2f} (median over what is compared)."
    ]


def _correlations(rows: Sequence[Row]) -> list[str]:
    """What goes with good generation, over the means of different points."""
    runs = _different(rows)
    if len(runs) < 4:
        return []
    column = lambda name: [mean(group, name) for group in runs]
    lines = []
    for target in ("FD-scenes", "class agreement"):
        parts = [
            f"{text} {value:+.2f} ({low:+.2f} to {high:+.2f})"
            for text, name in (
                ("probe of latents", "probe latents mean"),
                ("probe of features", "probe features mean"),
                ("PSNR", "PSNR"),
                ("roughness of latents", "latent roughness"),
            )
            for value, low, high in [rank_correlation(column(name), column(target))]
            if np.isfinite(value)
        ]
        lines.append(
            f"Rank correlation of {target} with others over the means of {len(runs)} "
            f"points (95% by resampling points): {', '.join(parts)}."
        )
    return lines


def _different(rows: Sequence[Row]) -> list[Group]:
    """Groups by method and size, without those whose runs another one has as well."""
    names: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        own = names.setdefault((row.point.method, row.point.size), set())
        own.add(point_hash(row.point))
    found = groups(rows)
    different = {frozenset(own): found[key] for key, own in names.items()}
    return [
        group
        for own, group in different.items()
        if not any(own < other for other in different)
    ]


def _course(along: Sequence[Group], name: str, form: str) -> str:
    return ", ".join(format(mean(group, name), form) for group in along)


def _understanding(rows: Sequence[Row]) -> list[str]:
    lines = []
    for method in methods(rows):
        own = _of(rows, method)
        line = (
            f"{method}: a linear probe reads shape from encoder features with accuracy "
            f"{_range(own, 'probe features shape')} and from mean latents with "
            f"{_range(own, 'probe latents shape')} (chance 0.25), all attributes from "
            f"features with {_range(own, 'probe features mean')}"
        )
        if all("zero-shot shape" in row.result.numbers for row in own if row.result):
            line += f"; zero-shot shape {_range(own, 'zero-shot shape')}"
        lines.append(line + ".")
    return lines


def _reconstruction(rows: Sequence[Row]) -> list[str]:
    return [
        f"{method}: reconstruction at {_range(_of(rows, method), 'PSNR', '.1f')} dB "
        "PSNR; principal components of the same size reach "
        f"{_range(_of(rows, method), 'PSNR of PCA', '.1f')} dB."
        for method in methods(rows)
    ]


def _obedience(rows: Sequence[Row]) -> list[str]:
    found = groups(rows)
    method, size = min(found, key=lambda name: mean(found[name], "FD-scenes"))
    best = found[method, size]
    return [
        f"The lowest mean FD-scenes is that of {method}, {size}: its samples show the "
        f"color asked for in {mean(best, 'color agreement'):.0%}, the shape in "
        f"{mean(best, 'shape agreement'):.0%}, both in "
        f"{mean(best, 'class agreement'):.0%}. Of many means, the lowest is so by "
        "chance too."
    ]


def _floor(rows: Sequence[Row]) -> list[str]:
    return [
        f"Held-out against training scenes, FD-scenes is {floor(rows):.2f}: its floor."
    ]


def _verdict(ahead: Sequence[float]) -> str:
    """Ahead or behind, where 0 is outside the interval of the mean lead."""
    bounds = interval(ahead)
    if bounds is None:
        return "is compared by one pair with"
    if bounds[0] > 0:
        return "is ahead of"
    return "is behind" if bounds[1] < 0 else "is not to be told from"


def _pairs(ahead: Sequence[float], form: str) -> str:
    each = ", ".join(format(lead, form) for lead in ahead)
    bounds = interval(ahead)
    if bounds is None:
        return f"lead {each}"
    low, high = (format(bound, form) for bound in bounds)
    middle = format(np.mean(ahead), form)
    return f"leads by paired seeds {each}; mean {middle}, 95% from {low} to {high}"


def _with_spread(group: Group) -> str:
    values = [numbers["FD-scenes"] for numbers in group.values()]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _sizes(rows: Sequence[Row], method: str) -> list[str]:
    """The places of a method on its curve, by rising compute."""
    found = groups(_of(rows, method))
    return [
        size for _, size in sorted(found, key=lambda key: mean(found[key], "FLOPs"))
    ]


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row.point.method == method]


def _range(rows: Sequence[Row], name: str, form: str = ".2f") -> str:
    values = [row.result.numbers[name] for row in rows if row.result]
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
