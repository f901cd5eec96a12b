"""The figures of a study: quality along a curve, and generation against pixels."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # a study may run where there is no screen

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
import matplotlib.pyplot as plt
from matplotlib.ticker import (
    FixedLocator,
    Locator,
    LogLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)
import numpy as np

from vtp_eqx.files import atomic_path
from vtp_eqx.study.measure import at_budget
from vtp_eqx.study.statistics import BASELINE, Group, mean
from vtp_eqx.study.table import finished_rows, groups, methods, real_distance, Row


COLORS = (
    "#0b5fa5", "#d1495b", "#2e8b57", "#edae49", "#6a4c93", "#555555",
    "#00a6a6", "#b5651d", "#e377c2", "#9acd32", "#17202a", "#ff7f50",
)  # fmt: skip
# Methods that several figures show look alike in all of them.
METHOD_COLORS = {"AE": COLORS[0], "VTP": COLORS[1]}
LABELS = {
    "FD-scenes": "FD-scenes of samples (lower is better)",
    "class accuracy": "samples of the class asked for (higher is better)",
    "PSNR": "PSNR of reconstructions, dB (higher is better)",
    "probe latents shape": "shape read off latents (higher is better)",
}


def curves_figure(
    rows: Sequence[Row],
    path: Path,
    title: str,
    *,
    x_label: str = "",
    band: Sequence[Row] = (),
) -> None:
    """Writes a panel for each number against the settings, in their order, to `path`.

    A method is a curve of means over seeds, a run is a dot, a bar spans the seeds. A
    shaded band spans the runs of `band`, those of an earlier study.
    """
    settings = list(dict.fromkeys(row.spec.setting for row in [*rows, *band]))
    names = ("FD-scenes", "class accuracy", "PSNR")
    figure, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for method in methods(rows):
            color = _color(rows, method)
            _draw_band(axis, band, method, name, settings, color)
            _draw_curve(axis, rows, method, name, settings, color)
        axis.set_xticks(range(len(settings)), settings)
        axis.set_xlim(-0.3, len(settings) - 0.7)
        axis.set_xlabel(x_label)
        axis.set_ylabel(LABELS.get(name, name))
    _draw_floor(axes, names, rows)
    _show_shares(axes, names)
    _write(figure, path, title)


def frontier_figure(
    rows: Sequence[Row],
    path: Path,
    title: str,
    *,
    names: Sequence[str] = ("FD-scenes", "class accuracy"),
    labels: Sequence[str] = (),
) -> None:
    """Writes generation against PSNR to `path`: a curve a method, a point a setting.

    Points are means over seeds, bars span the seeds. Settings are written beside the
    points of the first method.
    """
    figure, axes = _panels(len(names))
    found = groups(rows)
    texts = labels or [LABELS.get(name, name) for name in names]
    for axis, name, text in zip(axes, names, texts, strict=True):
        for method in methods(rows):
            own = [
                (setting, group)
                for (of, setting), group in found.items()
                if of == method and _has(group, name)
            ]
            if not own:
                continue
            color = _color(rows, method)
            x = [mean(group, "PSNR") for _, group in own]
            y = [mean(group, name) for _, group in own]
            axis.plot(x, y, color=color, marker="o", markersize=5, label=method)
            for (setting, group), at_x, at_y in zip(own, x, y, strict=True):
                _draw_bars(axis, group, name, at_x, at_y, color)
                if method == methods(rows)[0]:
                    axis.annotate(
                        setting, (at_x, at_y), xytext=(6, 5), fontsize=8,
                        textcoords="offset points", color=color,
                    )  # fmt: skip
        axis.set_xlabel(LABELS["PSNR"])
        axis.set_ylabel(text)
    _draw_floor(axes, names, rows)
    _show_shares(axes, names)
    _write(figure, path, title)


def convergence_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes FD-scenes and class right against generator steps, a curve a method.

    Points are means over seeds, bars span the seeds. Steps and FD-scenes, down to its
    floor and once more enlarged, are logarithmic. A dashed line is at the FD-scenes
    that the baseline ends with.
    """
    names, budgets = ("FD-scenes", "FD-scenes", "class accuracy"), rows[0].spec.budgets
    figure, axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis, FixedLocator(budgets))
        axis.set_xlabel("generator steps")
        axis.set_ylabel(LABELS[name])
        if name == "FD-scenes":
            axis.set_yscale("log")
            _plain_ticks(axis.yaxis, LogLocator(subs=(1, 2, 3, 5)))
        for (method, _), group in groups(rows).items():
            color = _color(rows, method)
            seeds = np.array(
                [[one[at_budget(name, n)] for n in budgets] for one in group.values()]
            )
            means = seeds.mean(axis=0)
            axis.plot(budgets, means, color=color, marker="o", ms=4, label=method)
            if len(seeds) > 1:
                reach = [means - seeds.min(axis=0), seeds.max(axis=0) - means]
                axis.errorbar(
                    budgets, means, reach, fmt="none", ecolor=color, capsize=3
                )
            if (method, name) == (BASELINE, "FD-scenes"):
                axis.axhline(
                    means[-1], color=color, linestyle="--", linewidth=1, alpha=0.6,
                    label=f"{BASELINE} at its end",
                )  # fmt: skip
    axes[1].set_ylabel("FD-scenes, enlarged (lower is better)")
    _draw_floor(axes[:1], names[:1], rows)
    _show_shares(axes, names)
    _write(figure, path, title)


def _plain_ticks(axis: Axis, ticks: Locator) -> None:
    """Numbers at `ticks` of a logarithmic axis, not powers of ten."""
    axis.set_major_locator(ticks)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _show_shares(axes: Sequence[Axes], names: Sequence[str]) -> None:
    """Shares are written in percent."""
    for axis, name in zip(axes, names, strict=True):
        if "accuracy" in name or name.startswith("probe"):
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    size = (5.2 * count, 4.4)
    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained")
    axes = list(np.atleast_1d(axes))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _has(group: Group, name: str) -> bool:
    return all(name in numbers for numbers in group.values())


def _color(rows: Sequence[Row], method: str) -> str:
    """One for each method; of more than there are, the first come again."""
    free = [color for color in COLORS if color not in METHOD_COLORS.values()]
    others = [name for name in methods(rows) if name not in METHOD_COLORS]
    if method in METHOD_COLORS:
        return METHOD_COLORS[method]
    return free[others.index(method) % len(free)]


def _draw_curve(
    axis: Axes,
    rows: Sequence[Row],
    method: str,
    name: str,
    settings: Sequence[str],
    color: str,
) -> None:
    points = []
    for (of, setting), group in groups(rows).items():
        if of != method or not _has(group, name):
            continue
        at = settings.index(setting)
        values = [numbers[name] for numbers in group.values()]
        axis.scatter([at] * len(values), values, color=color, s=16, zorder=3)
        if len(values) > 1:
            axis.vlines(at, min(values), max(values), color=color, linewidth=1)
        points.append((at, mean(group, name)))
    points.sort()
    x, y = zip(*points, strict=True) if points else ((), ())
    axis.plot(x, y, color=color, label=method)


def _draw_band(
    axis: Axes,
    band: Sequence[Row],
    method: str,
    name: str,
    settings: Sequence[str],
    color: str,
) -> None:
    spans = sorted(
        (settings.index(setting), [numbers[name] for numbers in group.values()])
        for (of, setting), group in groups(band).items()
        if of == method and _has(group, name)
    )
    if not spans:
        return
    x = [at for at, _ in spans]
    low, high = ([end(values) for _, values in spans] for end in (min, max))
    axis.fill_between(
        x, low, high, color=color, alpha=0.18, linewidth=0,
        label=f"{method}, committed runs",
    )  # fmt: skip


def _draw_bars(
    axis: Axes, group: Group, name: str, at_x: float, at_y: float, color: str
) -> None:
    values = [numbers[name] for numbers in group.values()]
    across = [numbers["PSNR"] for numbers in group.values()]
    if len(values) > 1:
        axis.vlines(at_x, min(values), max(values), color=color, linewidth=1)
        axis.hlines(at_y, min(across), max(across), color=color, linewidth=1)


def _draw_floor(
    axes: Sequence[Axes], names: Sequence[str], rows: Sequence[Row]
) -> None:
    if not finished_rows(rows):
        return
    for axis, name in zip(axes, names, strict=True):
        if name.startswith("FD-scenes"):
            axis.axhline(
                real_distance(rows), color="gray", linestyle=":",
                label="training scenes: the floor",
            )  # fmt: skip
            if axis.get_yscale() == "linear":
                axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)


def _write(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)
    plt.close(figure)
