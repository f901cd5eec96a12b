"""The tables of a study: means over seeds, paired differences, and every run."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from vtp_eqx.study.measure import RunResult
from vtp_eqx.study.run_spec import RunSpec, spec_hash
from vtp_eqx.study.statistics import (
    BASELINE,
    format_mean,
    Group,
    Groups,
    paired_differences,
    pairs,
    seed_deviation,
)


class Row(NamedTuple):
    """A run and, once it is finished, its result."""

    spec: RunSpec
    result: RunResult | None


class Column(NamedTuple):
    """A number of the table: its heading, its name in a result, and its format.

    A difference in it is multiplied by `sign`, so that positive is better.
    """

    heading: str
    name: str
    form: str
    sign: float = 1.0


# Of scenes; those of other data are given by their study.
COLUMNS = (
    Column("PSNR, dB", "PSNR", ".1f"),
    Column("FD-scenes (lower is better)", "FD-scenes", ".1f"),
    Column("class right", "class accuracy", ".0%"),
    Column("color right", "color accuracy", ".0%"),
    Column("shape read off latents", "probe latents shape", ".0%"),
)
COSTS = (
    Column("pre-training FLOPs", "FLOPs", ".1e"),
    Column("of them for the frozen network", "frozen FLOPs", ".1e"),
)
# Of a second table: what a single distance does not tell of samples.
GENERATION = (
    Column("modeling gap", "modeling gap", ".1f"),
    Column("MIND (lower is better)", "MIND", ".1f"),
    Column("FD-classes (lower is better)", "FD-classes", ".1f"),
    Column("FD per class (lower is better)", "FD per class", ".1f"),
    Column("FD reweighted", "FD reweighted", ".1f"),
    Column("precision", "precision", ".0%"),
    Column("recall", "recall", ".0%"),
    Column("density", "density", ".2f"),
    Column("coverage", "coverage", ".0%"),
    Column("class right, normalized", "class accuracy, normalized", ".0%"),
    Column("memorization", "memorization, features", ".1f"),
    Column("straightness", "straightness", ".2f"),
    Column("excess flow loss", "excess flow loss", "+.3f"),
)
REAL = "(train, validation)"  # after a name: the number of real images


def distance_of(rows: Sequence[Row]) -> str:
    """What the distance of samples is called in these runs, which are of one kind."""
    return rows[0].spec.kind.distance


def finished_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a result."""
    return [row for row in rows if row.result is not None]


def num_runs(rows: Sequence[Row]) -> int:
    """The number of different runs: a plan may name one twice."""
    return len({spec_hash(row.spec) for row in rows})


def groups(rows: Sequence[Row]) -> Groups:
    """The numbers of finished runs by method and setting, and then by seed."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for row in rows:
        if row.result is not None:
            group = found.setdefault((row.spec.method, row.spec.setting), {})
            group[row.spec.seed] = row.result.numbers
    return found


def methods(rows: Sequence[Row]) -> list[str]:
    """Every method once, in the order of the plan."""
    return list(dict.fromkeys(row.spec.method for row in rows))


def real_distances(rows: Sequence[Row]) -> list[float]:
    """The distance of training to validation images, its floor, of each finished run.

    Runs on different data differ in it.
    """
    return [_numbers(row)[f"FD{REAL}"] for row in finished_rows(rows)]


def terminal_table(
    rows: Sequence[Row], title: str, columns: Sequence[Column] = COLUMNS
) -> Table:
    """Means over seeds as rich draws them: at most two columns more than `columns`."""
    table = Table("method", "setting", title=title, title_justify="left")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for method, setting, _, *cells in _group_lines(rows, columns):
        table.add_row(method, setting, *cells)
    return table


def means_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> str:
    """A row for each method and setting: mean over seeds ± half of their range."""
    headings = [column.heading for column in columns]
    return markdown(
        ["method", "setting", "seeds", *headings], _group_lines(rows, columns)
    )


def generation_table(rows: Sequence[Row]) -> str:
    """Means over seeds of `generation_columns`, after those of real training images.

    Of runs that were measured so; empty where there is none.
    """
    columns = generation_columns(rows)
    if not columns:
        return ""
    names = {column.name for column in columns}
    rows = [row for row in finished_rows(rows) if names & {*_numbers(row)}]
    real = {
        name.removesuffix(REAL): value
        for name, value in _numbers(rows[0]).items()
        if name.endswith(REAL)
    }
    of_training = [f"training {rows[0].spec.kind.noun}", "", ""]
    return markdown(
        ["method", "setting", "seeds", *(column.heading for column in columns)],
        [[*of_training, *_means({0: real}, columns)], *_group_lines(rows, columns)],
    )


def generation_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of `GENERATION` that a finished run has a number for."""
    known = {name for row in rows for name in _numbers(row)}
    return [column for column in GENERATION if column.name in known]


def runs_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> str:
    """Every finished run: "-" where a number does not exist."""
    lines = [
        [spec.method, spec.setting, f"{spec.seed}", *_means({0: numbers}, columns)]
        for spec, numbers in ((row.spec, _numbers(row)) for row in finished_rows(rows))
    ]
    headings = [column.heading for column in columns]
    return markdown(["method", "setting", "seed", *headings], lines)


def differences_table(rows: Sequence[Row]) -> str:
    """A row for each method beside the baseline: paired differences by seed.

    Positive is better than the baseline. With three pairs or more, their 95% interval
    by Student's t; and the difference of means in deviations of seeds. Empty where the
    baseline has no pair.
    """
    distance, headings = distance_of(rows), ["method", "setting", "pairs"]
    differences = (
        Column(distance, distance, "+.1f", -1.0),
        Column("class right, points", "class accuracy", "+.1f", 100.0),
    )
    for column in differences:
        headings += [
            f"{column.heading}: difference to {BASELINE}",
            "in deviations of seeds",
        ]
    lines = [
        (
            method,
            setting,
            str(len(group)),
            *(cell for one in differences for cell in _difference(group, base, one)),
        )
        for method, setting, group, base in pairs(groups(rows))
    ]
    return markdown(headings, lines) if lines else ""


def unfinished_runs(rows: Sequence[Row]) -> str:
    """A sentence that names the planned runs without a result, or an empty one."""
    settings: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.result is None:
            of_method = settings.setdefault(row.spec.method, {})
            of_method.setdefault(row.spec.setting, []).append(str(row.spec.seed))
    if not settings:
        return ""
    parts = []
    for method, seeds in settings.items():
        named = [f"{setting} (seed {', '.join(of)})" for setting, of in seeds.items()]
        parts.append(f"{method}: {'; '.join(named)}")
    return f"Planned and not finished: {'. '.join(parts)}."


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    ruler = f"{'|---' * len(headings)}|"
    head, *body = [f"| {' | '.join(cells)} |" for cells in (headings, *lines)]
    return "\n".join([head, ruler, *body])


def _group_lines(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """Method, setting, count of seeds and means over them, for each that there is."""
    return [
        [method, setting, f"{len(group)}", *_means(group, columns)]
        for (method, setting), group in groups(rows).items()
    ]


def _numbers(row: Row) -> dict[str, float]:
    return row.result.numbers if row.result is not None else {}


def _means(group: Group, columns: Sequence[Column]) -> list[str]:
    """Means over seeds and half of their range, or "-" without the number."""
    cells = []
    for _, name, form, _ in columns:
        values = [numbers[name] for numbers in group.values() if name in numbers]
        text = format(float(np.mean(values)), form) if values else "-"
        if len(values) > 1:
            reach = (max(values) - min(values)) / 2
            text += f" ± {format(reach, form.removeprefix('+'))}"
        cells.append(text)
    return cells


def _difference(group: Group, base: Group, column: Column) -> tuple[str, str]:
    """A difference to the baseline, and the same in deviations of seeds."""
    _, name, form, sign = column
    ours = paired_differences(group, base, name, sign=sign)
    if not ours:
        return "-", "-"
    text = format_mean(ours, form)
    if len(ours) == 2:
        text += f" ({', '.join(format(value, form) for value in ours)})"
    deviation = seed_deviation(group, base, name)
    if deviation is None:
        return text, "-"
    return text, f"{np.mean(ours) / (abs(sign) * deviation):+.1f}"
