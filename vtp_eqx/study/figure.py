"""The figures of a study: quality along a curve, and methods as a cloud."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # a study may run where there is no screen

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
import numpy as np

from vtp_eqx.files import replacing
from vtp_eqx.study.paired import BASELINE, interval, leads, pairs
from vtp_eqx.study.table import finished, floor, groups, mean, methods, Row


COLORS = (
    "#0b5fa5", "#d1495b", "#2e8b57", "#edae49", "#6a4c93", "#555555",
    "#00a6a6", "#b5651d", "#e377c2", "#9acd32", "#17202a", "#ff7f50",
)  # fmt: skip
DISTANCE = "FD-scenes of samples (lower is better)"
CURVES = (
    ("FD-scenes", DISTANCE),
    ("class agreement", "samples that show the class asked for"),
    ("PSNR", "reconstruction: PSNR in dB"),
)
CLOUDS = (
    ("probe latents mean", "understanding: linear probe of mean latents"),
    ("PSNR", "reconstruction: PSNR in dB"),
)
# A number, by which sign more of it is better, and what a lead in it is called.
LEADS = (
    ("FD-scenes", -1, f"lead over {BASELINE} in FD-scenes"),
    ("class agreement", 100, f"lead over {BASELINE} in class shown, points"),
    ("probe latents mean", 100, f"lead over {BASELINE} in probe of latents, points"),
)


def scaling_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes a panel for each of `CURVES` against tokenizer compute to `path`.

    A method is a curve of means over seeds, a run is a dot, a bar joins the seeds.
    """
    figure, axes = _panels(len(CURVES))
    for axis, (name, label) in zip(axes, CURVES, strict=True):
        for method in methods(rows):
            _draw_curve(axis, rows, method, name)
        axis.set_xscale("log")
        # A study spans little more than a decade: three labels in each, no others.
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:.0e}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("tokenizer training compute (FLOPs)")
        axis.set_ylabel(label)
    if finished(rows):
        _draw_floor(axes[0], rows)
        axes[0].set_ylim(bottom=0)
        axes[0].legend(frameon=False)
    axes[1].set_ylim(0, 1)
    _write(figure, path, title)


def scatter_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes a panel for each of `CLOUDS` beside generation to `path`.

    A small dot is a run; a large mark is a method's mean over seeds, of another form
    for each of the groups that `Point.size` names.
    """
    figure, axes = _panels(len(CLOUDS))
    sizes = list(dict.fromkeys(row.point.size for row in rows))
    for axis, (name, label) in zip(axes, CLOUDS, strict=True):
        for (method, size), group in groups(rows).items():
            color = _color(rows, method)
            runs = [(one[name], one["FD-scenes"]) for one in group.values()]
            axis.scatter(*np.transpose(runs), color=color, s=10, alpha=0.6)
            axis.scatter(
                mean(group, name), mean(group, "FD-scenes"),
                color=color, s=60, marker="os^D"[sizes.index(size) % 4],
                label=f"{method}, {size}",
            )  # fmt: skip
        axis.set_xlabel(label)
        axis.set_ylabel(DISTANCE)
    if finished(rows):
        # Beside the panels: a study of controls has a dozen methods.
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, frameon=False, fontsize=8, loc="outside right upper"
        )
        _draw_floor(axes[0], rows)
    _write(figure, path, title)


def leads_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes a panel for each of `LEADS` of every method over the baseline to `path`.

    A dot is a pair of runs with one seed, a diamond their mean in its 95% interval.
    """
    found = groups(rows)
    figure, axes = _panels(len(LEADS))
    for axis, (name, sign, label) in zip(axes, LEADS, strict=True):
        labels = []
        for method, size, group, base in pairs(found):
            place, ahead = len(labels), leads(group, base, name, sign=sign)
            color = _color(rows, method)
            dots = place + np.linspace(-0.15, 0.15, len(ahead))
            axis.scatter(ahead, dots, color=color, s=14, alpha=0.6)
            if bounds := interval(ahead):
                axis.hlines(place, *bounds, color=color)
            axis.scatter(np.mean(ahead), place, color=color, s=60, marker="D")
            labels.append(f"{method}\n{size}")
        axis.axvline(0, color="gray", linestyle=":")
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(max(len(labels), 1) - 0.5, -0.5)
        axis.set_xlabel(label)
    _write(figure, path, title)


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    size = (4.6 * count + 1, 4)
    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained")
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _color(rows: Sequence[Row], method: str) -> str:
    """One for each method; of more than there are, the first come again."""
    return COLORS[methods(rows).index(method) % len(COLORS)]


def _draw_curve(axis: Axes, rows: Sequence[Row], method: str, name: str) -> None:
    color = _color(rows, method)
    means = []
    for (of, size), group in groups(rows).items():
        if of != method:
            continue
        flops = mean(group, "FLOPs")
        values = [numbers[name] for numbers in group.values()]
        axis.scatter([flops] * len(values), values, color=color, s=14, zorder=3)
        if len(values) > 1:
            axis.vlines(flops, min(values), max(values), color=color, linewidth=1)
        means.append((flops, float(np.mean(values)), size))
    if not means:
        return
    means.sort()
    axis.plot(*zip(*[point[:2] for point in means], strict=True), color=color,
              label=method)  # fmt: skip
    # Methods have the same sizes in the same order: one curve's labels are enough.
    for flops, value, size in means if method == methods(rows)[0] else ():
        axis.annotate(
            size, (flops, value), xytext=(5, 5), textcoords="offset points", fontsize=8
        )


def _draw_floor(axis: Axes, rows: Sequence[Row]) -> None:
    axis.axhline(floor(rows), color="gray", linestyle=":", label="real against real")


def _write(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=130)
    plt.close(figure)
