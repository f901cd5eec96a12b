"""The figure of a scaling study: quality of generation against tokenizer compute."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib


matplotlib.use("Agg")  # a study may run where there is no screen

from matplotlib.axes import Axes
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
import numpy as np

from vtp_eqx.files import replacing
from vtp_eqx.study.table import Row


COLORS = ("#0b5fa5", "#d1495b", "#2e8b57", "#edae49", "#6a4c93", "#555555")
PANELS = (
    ("FD-scenes", "FD-scenes of samples (lower is better)"),
    ("class agreement", "samples that show the class asked for"),
)


def scaling_figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Writes both panels to `path`; a method is a curve of means, a run is a dot."""
    done = [row for row in rows if row.result is not None]
    methods = list(dict.fromkeys(row.point.method for row in rows))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 4), layout="constrained")
    for axis, (name, label) in zip(axes, PANELS, strict=True):
        for color, method in zip(COLORS, methods, strict=False):
            own = [row for row in done if row.point.method == method]
            _draw_method(axis, own, name, color, method)
        axis.set_xscale("log")
        # A study spans little more than a decade: three labels in each, no others.
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:.0e}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("tokenizer training compute (forward FLOPs)")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    if done:
        floor = np.mean(
            [row.result.numbers["FD-scenes floor"] for row in done if row.result]
        )
        axes[0].axhline(floor, color="gray", linestyle=":", label="real against real")
        axes[0].set_ylim(bottom=0)
        axes[0].legend(frameon=False)
    axes[1].set_ylim(0, 1)
    figure.suptitle(title)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=150)
    plt.close(figure)


def _draw_method(
    axis: Axes, rows: Sequence[Row], name: str, color: str, method: str
) -> None:
    by_size: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        assert row.result is not None
        numbers = row.result.numbers
        by_size.setdefault(row.point.size, []).append((numbers["FLOPs"], numbers[name]))
    if not by_size:
        return
    means = sorted(((*np.mean(runs, axis=0), size) for size, runs in by_size.items()))
    curve = np.array([mean[:2] for mean in means])
    axis.plot(*curve.T, color=color, label=method)
    dots = np.array([run for runs in by_size.values() for run in runs])
    axis.scatter(*dots.T, color=color, s=22, zorder=3)
    for flops, value, size in means:
        axis.annotate(
            size, (flops, value), xytext=(5, 5), textcoords="offset points", fontsize=8
        )
