"""The report of which numbers predict generation: its table, sentences and figure."""

from collections.abc import Sequence
import functools
from pathlib import Path
import time

from matplotlib.lines import Line2D
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator
import numpy as np

from vtp_eqx.evaluation.latent_diagnosis import better
from vtp_eqx.files import atomic_path, write_text
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.figure import COLORS, method_colors, set_plain_ticks
from vtp_eqx.study.prediction import (
    ACCURACY,
    budgets_of,
    Correlation,
    correlation,
    DiagnosedRun,
    largest_setup,
    LEVEL,
    limit,
    LOSSES,
    Point,
    predictors,
    uncomparable,
    without_copies,
    write_runs,
)


TITLE = "Which numbers predict generation"
FIGURE = "predict_generation.png"
RECORDS = "panel.json"
FONT = 15  # of a figure that is read at half its size
SHAPES = "osv^DP*"  # of points, from few channels to many
DEFINITIONS = """\
- A point is a method at a width: the mean over its seeds. Correlations are Spearman's,
  of ranks; of {distance}, positive means that a larger number goes with worse
  samples.
- A correlation of ranks sees what rises or falls, and nothing of an optimum between:
  look at the figure. Numbers are in the order of their mean correlation with
  {distance}.
- In brackets after a number: where its source found generation to be better.
- **Bold**: it predicts. Its size reaches the 5% limit for so many points, and with the
  same sign the limit for those that are left, whichever method is left out.
- "without a method": the lowest and the highest correlation when all points of one
  method are left out; "95% interval": of a bootstrap over points. Both are of
  {distance} at the last budget.
- "flow loss" is that of the generator itself on held-out latents, at the same budget,
  "excess" what it exceeds that of Gaussian latents of the same covariance by."""

Table = dict[str, dict[tuple[str, int], Correlation]]  # by number, target and budget


def write_prediction_report(
    runs: Sequence[DiagnosedRun], out: Path, command: str, notes: Sequence[str] = ()
) -> list[str]:
    """Writes report, figure and records to `out`; returns the report's sentences.

    It is about the setup with most points, at its first and its last budget, and
    `command` made it. `notes` are sentences about runs that were left out before.
    """
    distinct = without_copies(runs)
    points = largest_setup(distinct)
    steps = budgets_of(points)
    ends = list(dict.fromkeys([steps[0], steps[-1]]))
    targets = (points[0].distance, ACCURACY)
    columns = [(target, budget) for target in targets for budget in ends]
    table: Table = {
        name: {
            (target, budget): correlation(points, name, target, budget)
            for target, budget in columns
        }
        for name in predictors(points, ends[-1])
    }
    distances = [column for column in columns if column[0] == targets[0]]
    size = lambda name: abs(np.mean([table[name][of].value for of in distances]))
    table = {n: table[n] for n in sorted(table, key=lambda n: -np.nan_to_num(size(n)))}
    sentences = [*_sentences(distinct, points, table, columns), *notes]
    if apart := uncomparable(points):
        sentences.append(
            f"Left out: {', '.join(apart)}. At some widths they are of the whole "
            "covariance, where images suffice, and at others of a product of two."
        )
    if len(distinct) < len(runs):
        number = len(runs) - len(distinct)
        sentences.append(f"Counted once, though under two names: {number} runs.")
    _draw(points, table, distances, out / FIGURE)
    write_runs(runs, out / RECORDS)
    parts = [
        f"# {TITLE}",
        f"`{command}`, drawn at commit `{commit()}`, {time.strftime('%Y-%m-%d')}.",
        f"![{TITLE}]({FIGURE})",
        "\n".join(f"- {sentence}" for sentence in sentences),
        _markdown(table, columns, distances[-1]),
        DEFINITIONS.format(distance=targets[0]),
    ]
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
    return sentences


def _sentences(
    runs: Sequence[DiagnosedRun],
    points: Sequence[Point],
    table: Table,
    columns: Sequence[tuple[str, int]],
) -> list[str]:
    """How many points there are, what chance would give, and what predicts."""
    used, count = sum(point.num_seeds for point in points), len(points)
    by_method: dict[str, list[str]] = {}
    for point in points:
        by_method.setdefault(point.method, []).append(f"{point.width}")
    named = "; ".join(f"{of} {', '.join(widths)}" for of, widths in by_method.items())
    least = limit(count)
    sentences = [
        f"{count} points of {len(by_method)} methods, with channels after each "
        f"({named}), of {used} runs. Left out, because their images, generators or "
        f"samples are others: {len(runs) - used} runs.",
        f"The 5% limit of {count} points is {least:.2f}. Of {len(table)} numbers that "
        f"know nothing, {LEVEL * len(table):.0f} would reach it, and many of these "
        "measure the same. Few points can refute; they prove nothing.",
    ]
    for target, budget in columns:
        those = [n for n, of in table.items() if of[target, budget].predicts]
        named = ", ".join(those) or "nothing"
        sentences.append(f"{target} after {budget} steps is predicted by: {named}.")
    return sentences


def _markdown(
    table: Table, columns: Sequence[tuple[str, int]], last: tuple[str, int]
) -> str:
    headings = [f"{target} @{budget}" for target, budget in columns]
    lines = [
        ["number", *headings, f"{last[0]} @{last[1]} without a method",
         "95% interval"],
        ["---", *["--:"] * (len(columns) + 2)],
    ]  # fmt: skip
    for name, found in table.items():
        of_last = found[last]
        way = better(name)
        lines.append(
            [f"{name} ({way})" if way else name,
             *(_cell(found[column]) for column in columns),
             _range(*of_last.without), _range(of_last.low, of_last.high)]
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(found: Correlation) -> str:
    text = f"{found.value:+.2f}"
    return f"**{text}**" if found.predicts else text


def _range(low: float, high: float) -> str:
    return f"{low:+.2f} to {high:+.2f}"


def _draw(
    points: Sequence[Point],
    table: Table,
    distances: Sequence[tuple[str, int]],
    path: Path,
) -> None:
    """The distance against the first number, flow loss and PSNR: a row for each budget.

    A color is a method, a shape a number of channels.
    """
    others = [name for name in (LOSSES[0], "PSNR") if name in table]
    names = [next(name for name in table if name not in others), *others]
    colors = method_colors(list(dict.fromkeys(point.method for point in points)))
    widths = sorted({point.width for point in points})
    # Where widths need no shape, methods have another as colors begin again.
    several = len(widths) > 1
    turn = {method: index // len(COLORS) for index, method in enumerate(colors)}
    shape = lambda method, width: SHAPES[
        (widths.index(width) if several else turn[method]) % len(SHAPES)
    ]
    mark = functools.partial(Line2D, [], [], linestyle="none", markersize=10)
    handles = [
        mark(marker=shape(method, widths[0]), color=color, label=method)
        for method, color in colors.items()
    ]
    if several:
        handles += [
            mark(marker=shape("", width), color="#555555", label=f"{width} channels")
            for width in widths
        ]
    with plt.rc_context({"font.size": FONT}):
        size = (5.4 * len(names), 4.8 * len(distances) + 1.2)
        figure, grid = plt.subplots(
            len(distances), len(names), figsize=size, layout="constrained",
            sharey="row", squeeze=False,
        )  # fmt: skip
        for axes, column in zip(grid, distances, strict=True):
            target, steps = column
            axes[0].set_ylabel(f"{target} @{steps}")
            axes[0].set_yscale("log")  # one far point must not press the others flat
            set_plain_ticks(axes[0].yaxis, LogLocator(subs=(1, 1.5, 2, 3, 5)))
            for axis, name in zip(axes, names, strict=True):
                for point in points:
                    axis.plot(
                        point.at(name, steps), point.at(target, steps),
                        shape(point.method, point.width),
                        color=colors[point.method],
                        markersize=10, alpha=0.8,
                    )  # fmt: skip
                found = table[name][column].value
                axis.set_title(f"rank correlation {found:+.2f}", fontsize=FONT)
                axis.set_xlabel(name)
                axis.margins(x=0.15, y=0.1)
                axis.grid(alpha=0.3)
                axis.spines[["top", "right"]].set_visible(False)
        figure.legend(
            handles=handles, loc="outside lower center", frameon=False,
            ncols=min(5, len(handles)),
        )  # fmt: skip
        with atomic_path(path) as unfinished:
            figure.savefig(unfinished, format="png", dpi=90)
        plt.close(figure)
