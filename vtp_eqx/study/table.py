"""The tables of a study: means over seeds, paired differences, and every run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from vtp_eqx.study.measure import RunResult
from vtp_eqx.study.run_spec import RunSpec, spec_hash
from vtp_eqx.study.statistics import (
    BASELINE,
    confidence_interval,
    Group,
    Groups,
    mean,
    paired_differences,
    pairs,
    seed_deviation,
)


class Row(NamedTuple):
    """A run and, once it is finished, its result."""

    spec: RunSpec
    result: RunResult | None


class Column(NamedTuple):
    """A number of the table: its heading, its name in a result, how it is written."""

    heading: str
    name: str
    form: str


COLUMNS = (
    Column("PSNR, dB", "PSNR", ".1f"),
    Column("FD-scenes (lower is better)", "FD-scenes", ".1f"),
    Column("class right", "class accuracy", ".0%"),
    Column("color right", "color accuracy", ".0%"),
    Column("shape read off latents", "probe latents shape", ".0%"),
)
# A number, how a difference in it is written, and its sign where more is better.
DIFFERENCES = (
    Column("FD-scenes", "FD-scenes", "+.1f"),
    Column("class right, points", "class accuracy", "+.1f"),
)
SIGNS = {"FD-scenes": -1.0, "class accuracy": 100.0}


def finished_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a result."""
    return [row for row in rows if row.result is not None]


def num_runs(rows: Sequence[Row]) -> int:
    """How many different runs these are: a plan may name one twice."""
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


def real_distance(rows: Sequence[Row]) -> float:
    """FD-scenes of training to validation scenes, its floor, of finished runs."""
    return float(
        np.mean(
            [row.result.numbers["FD(train, validation)"] for row in rows if row.result]
        )
    )


def terminal_table(
    rows: Sequence[Row], title: str, columns: Sequence[Column] = COLUMNS
) -> Table:
    """Means over seeds as rich draws them: at most two columns more than `columns`."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    table.add_column("setting")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for (method, setting), group in groups(rows).items():
        table.add_row(method, setting, *(mean_cell(group, one) for one in columns))
    return table


def means_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> str:
    """A row for each method and setting: mean over seeds ± half of their range."""
    lines = [_heading("method", "setting", "seeds", *(one.heading for one in columns))]
    for (method, setting), group in groups(rows).items():
        cells = [mean_cell(group, column) for column in columns]
        lines.append(_line(method, setting, str(len(group)), *cells))
    return "\n".join(lines)


def differences_table(rows: Sequence[Row]) -> str:
    """A row for each method beside the baseline: paired differences by seed.

    Positive is better than the baseline. With three pairs or more, their 95% interval
    by Student's t; and the difference of means in deviations of seeds.
    """
    found = groups(rows)
    headings = [
        heading
        for column in DIFFERENCES
        for heading in (
            f"{column.heading}: difference to {BASELINE}",
            "in deviations of seeds",
        )
    ]
    lines = [_heading("method", "setting", "pairs", *headings)]
    for method, setting, group, base in pairs(found):
        cells = []
        for column in DIFFERENCES:
            ours = paired_differences(group, base, column.name, sign=SIGNS[column.name])
            if not ours:
                cells += ["-", "-"]
                continue
            deviation = seed_deviation(group, base, column.name)
            scale = abs(SIGNS[column.name]) * deviation if deviation else None
            cells.append(_difference(ours, column.form))
            cells.append(f"{np.mean(ours) / scale:+.1f}" if scale else "-")
        lines.append(_line(method, setting, str(len(group)), *cells))
    return "\n".join(lines) if len(lines) > 1 else ""


def runs_table(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> str:
    """Every finished run: "-" where a number does not exist."""
    headings = [column.heading for column in columns]
    lines = [_heading("method", "setting", "seed", *headings)]
    for row in finished_rows(rows):
        spec = row.spec
        group = {spec.seed: row.result.numbers} if row.result else {}
        cells = [mean_cell(group, one) for one in columns]
        lines.append(_line(spec.method, spec.setting, str(spec.seed), *cells))
    return "\n".join(lines)


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


def mean_cell(group: Group, column: Column) -> str:
    """A mean over seeds and half of their range, or "-" without the number."""
    values = [
        numbers[column.name] for numbers in group.values() if column.name in numbers
    ]
    if not values:
        return "-"
    text = format(mean(group, column.name), column.form)
    if len(values) == 1:
        return text
    half = format((max(values) - min(values)) / 2, column.form)
    return f"{text} ± {half}"


def _difference(values: Sequence[float], form: str) -> str:
    text = format(float(np.mean(values)), form)
    bounds = confidence_interval(values)
    if len(values) < 3 or bounds is None:
        each = ", ".join(format(value, form) for value in values)
        return text if len(values) == 1 else f"{text} ({each})"
    low, high = (format(bound, form) for bound in bounds)
    return f"{text} ({low} to {high})"


def _heading(*names: str) -> str:
    return f"{_line(*names)}\n{'|---' * len(names)}|"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
