"""Plain sentences about the numbers of a study."""

from collections.abc import Collection, Sequence

import numpy as np

from vtp_eqx.study.measure import at_budget
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.statistics import (
    BASELINE,
    confidence_interval,
    format_mean,
    Group,
    Groups,
    interpolated,
    mean,
    paired_differences,
    pairs,
    steps_to_reach,
)
from vtp_eqx.study.table import (
    distance_of,
    finished_rows,
    groups,
    methods,
    real_distances,
    Row,
)


# The terms that teach what an image shows: from captions, from itself, from a network.
SEMANTIC = {"contrast", "distillation", "alignment", "flow_distillation"}


def network_sentence(rows: Sequence[Row]) -> list[str]:
    """How often the network that reads samples is right about real images.

    And about reconstructions, in the mean over runs.
    """
    numbers = [row.result.numbers for row in finished_rows(rows) if row.result]
    if not numbers:
        return []
    mean_of = lambda name: f"{np.mean([one[name] for one in numbers]):.0%}"
    return [
        f"The network sees the class of {mean_of('class accuracy in real images')} of "
        f"held-out {rows[0].spec.kind.noun} and of "
        f"{mean_of('class accuracy in reconstructions')} of their reconstructions, on "
        "average over runs."
    ]


def baseline_sentences(
    rows: Sequence[Row], *methods: str, baseline: str = BASELINE
) -> list[str]:
    """Each method beside the baseline at each setting, in two numbers."""
    sentences, distance = [], distance_of(rows)
    for method in methods:
        parts = []
        for name, setting, group, base in pairs(groups(rows), baseline):
            if name != method:
                continue
            gains = paired_differences(group, base, distance, sign=-1)
            part = (
                f"{setting}: {mean(group, distance):.1f} against "
                f"{mean(base, distance):.1f}, {_verdict(gains)}"
            )
            right = paired_differences(group, base, "class accuracy", sign=100)
            if right:
                part += f", class right {format_mean(right)} points"
            parts.append(part)
        if parts:
            sentences.append(
                f"{distance} of {method} beside {baseline} (lower is better; real "
                f"{rows[0].spec.kind.noun} have {_floor(rows)}): "
                f"{'; '.join(parts)}."
            )
    return sentences


def ranking_sentences(rows: Sequence[Row]) -> list[str]:
    """Distance and class accuracy of all methods, best first.

    Means over the seeds that all methods have, so that none is ranked by its seeds.
    """
    found, distance = groups(rows), distance_of(rows)
    shared = set.intersection(*({*group} for group in found.values())) if found else ()
    if not shared:
        return []
    real = f"real {rows[0].spec.kind.noun} have {_floor(rows)}"
    sentences = []
    for name, title, style, sign in (
        (distance, f"{distance} of {_seeds(shared)}, lowest first ({real})", ".1f", 1),
        ("class accuracy", "Class right, highest first", ".0%", -1),
    ):
        means = {
            key: mean({seed: group[seed] for seed in shared}, name)
            for key, group in found.items()
        }
        order = sorted(means, key=lambda key: sign * means[key])
        parts = [f"{method} {means[method, at]:{style}}" for method, at in order]
        sentences.append(f"{title}: {', '.join(parts)}.")
    return sentences


def trend_sentence(
    rows: Sequence[Row], methods: Sequence[str], along: str
) -> list[str]:
    """The change of distance and PSNR from the first setting to the last.

    Where the lowest distance lies between them, it is named.
    """
    found, name = groups(rows), distance_of(rows)
    parts = []
    for method in methods:
        settings = [setting for of, setting in found if of == method]
        if len(settings) < 2:
            continue
        first, last = found[method, settings[0]], found[method, settings[-1]]
        distance = paired_differences(last, first, name)
        psnr = paired_differences(last, first, "PSNR")
        if not distance:
            continue
        part = (
            f"{method}: {name} {format_mean(distance)}, PSNR {format_mean(psnr)} dB "
            f"from {settings[0]} to {settings[-1]} ({_seeds(distance)})"
        )
        best = min(settings, key=lambda at: mean(found[method, at], name))
        if best not in (settings[0], settings[-1]):
            part += f", lowest {mean(found[method, best], name):.1f} at {best}"
        parts.append(part)
    return [f"Along {along}: {'; '.join(parts)}."] if parts else []


def setting_sentences(
    rows: Sequence[Row], base: str, names: Sequence[str]
) -> list[str]:
    """For each method, the change of `names` from the setting `base` to each other."""
    found, sentences = groups(rows), []
    for method in methods(rows):
        parts = []
        for (of, setting), group in found.items():
            if of != method or setting == base or (method, base) not in found:
                continue
            changes = [
                f"{name} {format_mean(change, '+.2f')}"
                for name in names
                if (change := paired_differences(group, found[method, base], name))
            ]
            parts.append(f"{setting}: {', '.join(changes)}")
        if parts:
            sentences.append(f'{method} beside "{base}": {"; ".join(parts)}.')
    return sentences


def frontier_sentences(rows: Sequence[Row], method: str, *baselines: str) -> list[str]:
    """FD of each baseline minus a method's at equal PSNR, seed by seed.

    Then how many standard deviations, over seeds, of that difference its mean is.
    """
    found, name = groups(rows), distance_of(rows)
    ours = {setting: group for (of, setting), group in found.items() if of == method}
    sentences = []
    for baseline in baselines:
        parts = []
        for setting, group in ours.items():
            gains = _gains_at_equal_psnr(found, group, baseline, name)
            if not gains:
                continue
            part = (
                f"{setting} ({mean(group, 'PSNR'):.1f} dB, {_seeds(gains)}): "
                f"{format_mean(gains)}"
            )
            if len(gains) > 1 and (deviation := np.std(gains, ddof=1)) > 0:
                size = abs(np.mean(gains)) / deviation
                part += f", {size:.1f} deviations of seeds"
            parts.append(part)
        if parts:
            sentences.append(
                f"At equal PSNR, {name} of {method} is lower than that of {baseline} "
                f"by {'; '.join(parts)} (negative: higher)."
            )
    return sentences


def control_sentences(rows: Sequence[Row], method: str) -> list[str]:
    """The best rival of `method` that learns no semantics, at each setting.

    Then which controls are missing of those without which a lead of `method` is no sign
    that semantics help.
    """
    finished, name = groups(rows), distance_of(rows)
    controls = [
        row.spec
        for row in finished_rows(rows)
        if not row.spec.pretrain.term_weights.keys() & SEMANTIC
    ]
    rivals: dict[str, list[tuple[str, Group, Group]]] = {}
    for rival in sorted({spec.method for spec in controls}):
        for of, setting, group, base in pairs(finished, rival):
            if of == method:
                rivals.setdefault(setting, []).append((rival, group, base))
    parts = []
    for setting, several in rivals.items():
        rival, group, base = min(several, key=lambda one: mean(one[2], name))
        gains = paired_differences(group, base, name, sign=-1)
        parts.append(
            f"{setting}: {rival} {mean(base, name):.1f}, of {len(several)} methods, "
            f"{format_mean(gains)} ({_seeds(gains)})"
        )
    if not parts:
        return []
    widths = [
        row.spec.pretrain.tokenizer.latent_width
        for row in finished_rows(rows)
        if row.spec.method == method
    ]
    return [
        f"The lowest {name} without semantics, and by how much {method} lies below it "
        f"(negative: above): {'; '.join(parts)}.",
        _needed_controls(controls, max(widths)),
    ]


def convergence_sentence(rows: Sequence[Row], goal: str) -> list[str]:
    """The generator steps after which others have the distance that `goal` ends with.

    Of the same seed: a method's range over seeds, and how many times fewer steps.
    """
    budgets, found, name = rows[0].spec.budgets, groups(rows), distance_of(rows)
    ends = {
        seed: numbers[name]
        for (method, _), group in found.items()
        if method == goal
        for seed, numbers in group.items()
    }
    parts = []
    for (method, _), group in found.items():
        reached = [
            steps_to_reach(
                budgets,
                [numbers[at_budget(name, steps)] for steps in budgets],
                ends[seed],
            )
            for seed, numbers in group.items()
            if seed in ends
        ]
        if reached and method != goal:
            parts.append(f"{method} {_reached(reached, budgets)}")
    if not parts:
        return []
    return [
        f"Generator steps to the {name} that {goal} of the same seed has after "
        f"{budgets[-1]}: {'; '.join(parts)}."
    ]


def _gains_at_equal_psnr(
    found: Groups, group: Group, baseline: str, name: str
) -> list[float]:
    """By how much `name` lies below the baseline's curve over its settings."""
    baselines = [base for (of, _), base in found.items() if of == baseline]
    gains = []
    for seed, numbers in group.items():
        curve = [base[seed] for base in baselines if seed in base]
        psnr, distance = ([one[n] for one in curve] for n in ("PSNR", name))
        theirs = interpolated(psnr, distance, numbers["PSNR"])
        if theirs is not None:
            gains.append(theirs - numbers[name])
    return gains


def _needed_controls(controls: Sequence[RunSpec], width: int) -> str:
    """Which are there of noise, masked patches and fewer channels than `width`."""
    configs = [spec.pretrain for spec in controls]
    needed = {
        "noise": any(config.latent_noise > 0 for config in configs),
        "masked patches": any(
            config.controls.masked_ratio[1] > 0 for config in configs
        ),
        "fewer channels": any(
            config.tokenizer.latent_width < width for config in configs
        ),
    }
    missing = [control for control, is_there in needed.items() if not is_there]
    state = f"{', '.join(missing)} missing" if missing else "all finished"
    return f"Controls that a claim for semantics needs ({', '.join(needed)}): {state}."


def _reached(steps: Sequence[float | None], budgets: Sequence[int]) -> str:
    found = sorted(one for one in steps if one is not None)
    if not found:
        return "not reached"
    few, many = found[0], found[-1]
    at_most = "at most " if few == budgets[0] else ""
    text = f"{few:.0f} to {many:.0f}" if few < many else f"{few:.0f}"
    speedups = dict.fromkeys(f"{budgets[-1] / one:.1f}" for one in (many, few))
    text = f"{at_most}{text} ({' to '.join(speedups)} times as fast)"
    if len(found) < len(steps):
        text += f", in {len(found)} of {len(steps)} seeds"
    return text


def _verdict(gains: Sequence[float]) -> str:
    """Better or worse, where 0 is outside the 95% interval of three seeds or more."""
    bounds = confidence_interval(gains)
    if bounds is None or len(gains) < 3:
        return _seeds(gains)
    if bounds[0] > 0:
        return "better"
    return "worse" if bounds[1] < 0 else "no significant difference"


def _seeds(values: Collection[object]) -> str:
    """How many seeds there is a value of."""
    number = {1: "one seed", 2: "two seeds", 3: "three seeds"}
    return number.get(len(values), f"{len(values)} seeds")


def _floor(rows: Sequence[Row]) -> str:
    """The floor of finished runs, of several data from the lowest to the highest."""
    floors = [f"{value:.1f}" for value in sorted(real_distances(rows))]
    return " to ".join(dict.fromkeys([floors[0], floors[-1]]))
