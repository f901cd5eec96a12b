"""The report of which numbers predict generation: its table, sentences and figure."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from vtp_eqx.evaluation.latent_diagnosis import better
from vtp_eqx.files import atomic_path, write_text
from vtp_eqx.study.figure import method_colors
from vtp_eqx.study.prediction import (
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
    TARGETS,
    write_runs,
)


TITLE = "Which numbers predict generation"
FIGURE = "predict_generation.png"
RECORDS = "panel.json"
FONT = 15  # of a figure that is read at half its size
DEFINITIONS = """\
- A point is a method at a width: the mean over its seeds. Correlations are Spearman's,
  of ranks; of FD-scenes, positive means that a larger number goes with worse samples.
- In brackets after a number: where its source found generation to be better.
- **Bold**: it predicts. Its size reaches the 5% limit for so many points, and with the
  same sign the limit for those that are left, whichever method is left out.
- "without a method": the lowest and the highest correlation when all points of one
  method are left out; "95% interval": of a bootstrap over points. Both are of
  FD-scenes at the last budget.
- "flow loss" is that of the generator itself on held-out latents, at the same budget,
  "excess" what it exceeds that of Gaussian latents of the same covariance by."""

Table = dict[str, dict[tuple[str, int], Correlation]]  # by number, target and budget


def write_prediction_report(
    runs: Sequence[DiagnosedRun], out: Path, command: str
) -> list[str]:
    """Writes report, figure and records to `out`; returns the report's sentences.

    It is about the setup with most points, at its first and its last budget, and
    `command` made it.
    """
    points = largest_setup(runs)
    steps = budgets_of(points)
    ends = list(dict.fromkeys([steps[0], steps[-1]]))
    columns = [(target, budget) for target in TARGETS for budget in ends]
    table: Table = {
        name: {
            (target, budget): correlation(points, name, target, budget)
            for target, budget in columns
        }
        for name in predictors(points, ends[-1])
    }
    last = (TARGETS[0], ends[-1])
    table = dict(
        sorted(table.items(), key=lambda item: -np.nan_to_num(abs(item[1][last].value)))
    )
    sentences = _sentences(runs, points, table, columns)
    _draw(points, table, last, out / FIGURE)
    write_runs(runs, out / RECORDS)
    parts = [
        f"# {TITLE}",
        f"`{command}`",
        f"![{TITLE}]({FIGURE})",
        "\n".join(f"- {sentence}" for sentence in sentences),
        _markdown(table, columns),
        DEFINITIONS,
    ]
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
    return sentences


def _sentences(
    runs: Sequence[DiagnosedRun],
    points: Sequence[Point],
    table: Table,
    columns: Sequence[tuple[str, int]],
) -> list[str]:
    """How many points there are, what chance does, and what predicts."""
    used, count = sum(point.num_seeds for point in points), len(points)
    by_method: dict[str, list[str]] = {}
    for point in points:
        by_method.setdefault(point.method, []).append(f"{point.width}")
    named = "; ".join(f"{of} {', '.join(widths)}" for of, widths in by_method.items())
    least = limit(count)
    sentences = [
        f"{count} points of {len(by_method)} methods (width after each: {named}), of "
        f"{used} runs; {len(runs) - used} runs have another setup and are left out.",
        f"The 5% limit of {count} points is {least:.2f}. Of {len(table)} numbers that "
        f"know nothing, {LEVEL * len(table):.0f} would reach it, and many of these "
        "measure the same: few points can only refute.",
    ]
    for target in TARGETS:
        budgets = [column for column in columns if column[0] == target]
        those = [n for n, of in table.items() if all(of[c].predicts for c in budgets)]
        after = " and ".join(f"{budget}" for _, budget in budgets)
        sentences.append(
            f"{target} after {after} steps: {', '.join(those) or 'nothing'} predicts."
        )
    return sentences


def _markdown(table: Table, columns: Sequence[tuple[str, int]]) -> str:
    last = max(column for column in columns if column[0] == TARGETS[0])
    headings = [f"{target} @{budget}" for target, budget in columns]
    lines = [
        ["number", *headings, f"{TARGETS[0]} @{last[1]} without a method",
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
    points: Sequence[Point], table: Table, last: tuple[str, int], path: Path
) -> None:
    """FD-scenes against the number that goes best with it, flow loss and PSNR."""
    target, steps = last
    others = [name for name in (LOSSES[0], "PSNR") if name in table]
    names = [next(name for name in table if name not in others), *others]
    with plt.rc_context({"font.size": FONT}):
        size = (5.4 * len(names), 5.8)
        figure, axes = plt.subplots(
            1, len(names), figsize=size, layout="constrained", sharey=True,
            squeeze=False,
        )  # fmt: skip
        colors = method_colors(list(dict.fromkeys(point.method for point in points)))
        for axis, name in zip(axes[0], names, strict=True):
            for method, color in colors.items():
                own = [point for point in points if point.method == method]
                x = [point.at(name, steps) for point in own]
                y = [point.at(target, steps) for point in own]
                axis.plot(x, y, "o", color=color, markersize=10, label=method)
                for point, *place in zip(own, x, y, strict=True):
                    axis.annotate(
                        f"{point.width}", place, xytext=(8, 3), color=color,
                        textcoords="offset points",
                    )  # fmt: skip
            found = table[name][last]
            axis.set_title(
                f"rank correlation {found.value:+.2f}\n({_range(*found.without)})",
                fontsize=FONT,
            )
            axis.set_xlabel(name)
            axis.margins(x=0.15)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][0].set_ylabel(f"{target} @{steps} (lower is better)")
        figure.legend(
            *axes[0][0].get_legend_handles_labels(), loc="outside lower center",
            ncols=min(4, len(colors)), frameon=False,
        )  # fmt: skip
        with atomic_path(path) as unfinished:
            figure.savefig(unfinished, format="png", dpi=110)
        plt.close(figure)
