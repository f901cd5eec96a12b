"""The figures of a study: quality along a curve, and generation against pixels."""

from collections.abc import Mapping, Sequence
import itertools
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # a study may run where there is no screen

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
import matplotlib.pyplot as plt
from matplotlib.ticker import (
    FixedLocator,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)
import numpy as np

from vtp_eqx.files import atomic_path
from vtp_eqx.study.measure import at_budget
from vtp_eqx.study.statistics import BASELINE, Group
from vtp_eqx.study.table import (
    distance_of,
    finished_rows,
    groups,
    methods,
    real_distances,
    Row,
)


COLORS = (
    "#0b5fa5", "#d1495b", "#2e8b57", "#edae49", "#6a4c93", "#555555",
    "#00a6a6", "#b5651d", "#e377c2", "#9acd32", "#17202a", "#ff7f50",
    "#8fa3ad", "#7a1f3d", "#c8b400", "#b39ddb", "#5dade2", "#1b4d3e",
    "#f4a6b7", "#7b5e57",
)  # fmt: skip
FIRST_METHODS = ("AE", "VTP")  # of the first colors in every figure
LABELS = {
    "FD-scenes": "FD-scenes of samples (lower is better)",
    "rFD-scenes": "FD-scenes of reconstructions (lower is better)",
    "FD-emoji": "FD-emoji of samples (lower is better)",
    "class accuracy": "samples of the class asked for (higher is better)",
    "PSNR": "PSNR of reconstructions, dB (higher is better)",
}


def curves_figure(
    rows: Sequence[Row],
    path: Path,
    title: str,
    *,
    x_label: str = "",
    is_ordered: bool = True,
    band: Sequence[Row] = (),
    names: Sequence[str] = (),
) -> None:
    """Writes a panel for each of `names` against the settings, in order, to `path`.

    A method is a curve of means over seeds, a run is a dot, a bar spans the seeds. A
    shaded band spans the runs of `band`, those of an earlier study. `names` are by
    default the distance, the class accuracy and PSNR. No curve joins settings that have
    no order, and their names stand slanted.
    """
    settings = _settings([*rows, *band])
    distance = distance_of(rows)
    names = names or (distance, "class accuracy", "PSNR")
    figure, axes = _panels(names)
    for axis, name in zip(axes, names, strict=True):
        for method, color in method_colors(methods(rows)).items():
            committed = _points(band, method, name, settings)
            x = [settings.index(setting) for setting in committed]
            points = _points(rows, method, name, settings)
            low, high = _ends(_seeds(committed, name))
            # Of one seed each there is no area; the runs themselves have bars.
            if low != high and committed != points:
                axis.fill_between(
                    x, low, high, color=color, alpha=0.18, linewidth=0,
                    label=f"{method}, committed runs",
                )  # fmt: skip
            if not points:
                continue
            x = [settings.index(setting) for setting in points]
            seeds = _seeds(points, name)
            marker, line = ("", "-") if is_ordered else ("o", "none")
            _draw_curve(axis, x, seeds, color, method, marker=marker, line=line)
            for at, values in zip(x, seeds, strict=True):
                axis.scatter([at] * len(values), values, color=color, s=16, zorder=3)
        axis.set_xticks(range(len(settings)), settings)
        if not is_ordered:
            for text in axis.get_xticklabels():
                text.set(rotation=40, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.3, len(settings) - 0.7)
        axis.set_xlabel(x_label)
        if name == distance:
            _draw_floor(axis, rows)
    _write(figure, path, title)


def frontier_figure(
    rows: Sequence[Row],
    path: Path,
    title: str,
    *,
    names: Sequence[str] = (),
) -> None:
    """Writes generation against PSNR to `path`: a curve a method, a point a setting.

    Points are means over seeds, bars span the seeds. Settings, where there are several,
    are written beside the points of the first method. `names` are the numbers that are
    drawn against PSNR, by default the distance and the class accuracy. Distances are
    logarithmic: those of some controls are several times those of others.
    """
    distance = distance_of(rows)
    names = names or (distance, "class accuracy")
    figure, axes = _panels(names)
    for axis, name in zip(axes, names, strict=True):
        for method, color in method_colors(methods(rows)).items():
            points = _points(rows, method, name, _settings(rows))
            if not points:
                continue
            across = _seeds(points, "PSNR")
            x = [float(np.mean(values)) for values in across]
            y = _draw_curve(axis, x, _seeds(points, name), color, method)
            axis.hlines(y, *_ends(across), color=color, linewidth=1)
            if method == methods(rows)[0] and len(points) > 1:
                for setting, at_x, at_y in zip(points, x, y, strict=True):
                    axis.annotate(
                        setting, (at_x, at_y), xytext=(6, 5), fontsize=9, zorder=9,
                        textcoords="offset points", color=color, weight="bold",
                        path_effects=[withStroke(linewidth=3, foreground="white")],
                    )  # fmt: skip
        axis.set_xlabel(LABELS["PSNR"])
        if name.startswith(distance) and finished_rows(rows):
            axis.set_yscale("log")
            set_plain_ticks(axis.yaxis, MaxNLocator(6))
            noun, floor = rows[0].spec.kind.noun, real_distances(rows)[0]
            label = axis.get_ylabel().removesuffix(")")
            axis.set_ylabel(f"{label}; training {noun} {floor:.2g})")
    _write(figure, path, title)


def convergence_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes distance and class right against generator steps, a curve a method.

    Points are means over seeds, bars span the seeds. Steps and distance, down to its
    floor and once more enlarged, are logarithmic. A dashed line is at the distance
    that the baseline ends with.
    """
    distance, budgets = distance_of(rows), rows[0].spec.budgets
    names = (distance, distance, "class accuracy")
    figure, axes = _panels(names)
    for axis, name in zip(axes, names, strict=True):
        axis.set_xscale("log")
        set_plain_ticks(axis.xaxis, FixedLocator(budgets))
        axis.set_xlabel("generator steps")
        if name == distance:
            axis.set_yscale("log")
            set_plain_ticks(axis.yaxis, LogLocator(subs=(1, 2, 3, 5)))
        for (method, _), group in groups(rows).items():
            color = method_colors(methods(rows))[method]
            at_each = [at_budget(name, steps) for steps in budgets]
            seeds = [[numbers[at] for numbers in group.values()] for at in at_each]
            *_, last = _draw_curve(axis, budgets, seeds, color, method)
            if (method, name) == (BASELINE, distance):
                axis.axhline(
                    last, color=color, linestyle="--", linewidth=1, alpha=0.6,
                    label=f"{BASELINE} at its end",
                )  # fmt: skip
    axes[1].set_ylabel(f"{distance}, enlarged\n(lower is better)")
    _draw_floor(axes[0], rows)
    _write(figure, path, title)


def _settings(rows: Sequence[Row]) -> list[str]:
    """Every setting once, in the order of the plan."""
    return list(dict.fromkeys(row.spec.setting for row in rows))


def method_colors(names: Sequence[str]) -> dict[str, str]:
    """A color for each method; of more methods than colors, the first come again."""
    ordered = dict.fromkeys([*FIRST_METHODS, *names])
    colors = dict(zip(ordered, itertools.cycle(COLORS), strict=False))
    return {method: colors[method] for method in names}


def _points(
    rows: Sequence[Row], method: str, name: str, settings: Sequence[str]
) -> dict[str, Group]:
    """The finished runs of a method by setting, of those that have the number."""
    found = groups(rows)
    return {
        setting: group
        for setting in settings
        if (group := found.get((method, setting)))
        and all(name in numbers for numbers in group.values())
    }


def _seeds(points: Mapping[str, Group], name: str) -> list[list[float]]:
    """A number of each point, seed by seed."""
    return [[one[name] for one in group.values()] for group in points.values()]


def _ends(seeds: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """The lowest and the highest number of each point."""
    return [*map(min, seeds)], [*map(max, seeds)]


def _draw_curve(
    axis: Axes,
    x: Sequence[float],
    seeds: Sequence[Sequence[float]],
    color: str,
    label: str,
    marker: str = "o",
    line: str = "-",
) -> list[float]:
    """Draws means over seeds, and a bar from end to end; returns the means."""
    y = [float(np.mean(values)) for values in seeds]
    axis.plot(
        x, y, color=color, linestyle=line, marker=marker, markersize=5, label=label
    )
    axis.vlines(x, *_ends(seeds), color=color, linewidth=1)
    return y


def _draw_floor(axis: Axes, rows: Sequence[Row]) -> None:
    """A line at the distance that training images have, the first of several data's."""
    if not finished_rows(rows):
        return
    axis.axhline(
        real_distances(rows)[0], color="gray", linestyle=":",
        label=f"training {rows[0].spec.kind.noun}: the floor",
    )  # fmt: skip
    if axis.get_yscale() == "linear":
        axis.set_ylim(bottom=0)


def _panels(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A panel for each number, side by side; shares are in percent."""
    size = (4.6 * len(names), 4.4)
    figure, grid = plt.subplots(
        1, len(names), figsize=size, layout="constrained", squeeze=False
    )
    axes = list(grid[0])
    for axis, name in zip(axes, names, strict=True):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        quantity, _, steps = name.partition(" @")
        after = f" after {steps} steps" if steps else ""
        what, *direction = LABELS.get(quantity, quantity).split(" (")
        axis.set_ylabel("\n(".join([what + after, *direction]))
        if "accuracy" in name:
            axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    return figure, axes


def set_plain_ticks(axis: Axis, ticks: Locator) -> None:
    """Numbers at `ticks` of a logarithmic axis, not powers of ten."""
    axis.set_major_locator(ticks)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _write(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title)
    labeled = [axis.get_legend_handles_labels() for axis in figure.axes]
    handles = {
        label: handle for each in labeled for handle, label in zip(*each, strict=True)
    }
    if handles:  # below the panels, where it hides no point
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center",
            ncols=2 * len(figure.axes), frameon=False,
        )  # fmt: skip
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)
    plt.close(figure)
