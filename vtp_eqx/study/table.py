"""The table of a study: one row a run, on the terminal and in the report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from vtp_eqx.study.measure import Result
from vtp_eqx.study.point import Point, point_hash


class Row(NamedTuple):
    """A point and, once it is finished, its result."""

    point: Point
    result: Result | None


Group = dict[int, dict[str, float]]  # the numbers of runs, by seed


class Column(NamedTuple):
    """A number of the table: its heading, where it is found, how it is written."""

    heading: str
    name: str
    form: str


COLUMNS = (
    Column("FLOPs", "FLOPs", ".2e"),
    Column("PSNR", "PSNR", ".1f"),
    Column("rFD", "rFD-scenes", ".2f"),
    Column("probe", "probe features mean", ".2f"),
    Column("probe shape", "probe features shape", ".2f"),
    Column("latent probe shape", "probe latents shape", ".2f"),
    Column("zero-shot shape", "zero-shot shape", ".2f"),
    Column("roughness", "latent roughness", ".2f"),
    Column("gFD", "FD-scenes", ".2f"),
    Column("gFD to rec", "FD-scenes to reconstructions", ".2f"),
    Column("texture drift", "drift texture", ".2f"),
    Column("color shown", "color agreement", ".2f"),
    Column("shape shown", "shape agreement", ".2f"),
    Column("class shown", "class agreement", ".2f"),
)


def finished(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a result."""
    return [row for row in rows if row.result is not None]


def num_runs(rows: Sequence[Row]) -> int:
    """How many different runs these are: a plan may name one twice."""
    return len({point_hash(row.point) for row in rows})


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], Group]:
    """The numbers of finished runs by method and size, and then by seed."""
    found: dict[tuple[str, str], Group] = {}
    for row in finished(rows):
        assert row.result is not None
        group = found.setdefault((row.point.method, row.point.size), {})
        group[row.point.seed] = row.result.numbers
    return found


def mean(group: Group, name: str) -> float:
    """A number's mean over seeds."""
    return float(np.mean([numbers[name] for numbers in group.values()]))


def methods(rows: Sequence[Row]) -> list[str]:
    """Every method once, in the order of the plan."""
    return list(dict.fromkeys(row.point.method for row in rows))


def floor(rows: Sequence[Row]) -> float:
    """FD-scenes of real scenes, where runs are finished."""
    return float(
        np.mean([row.result.numbers["FD-scenes floor"] for row in rows if row.result])
    )


def terminal_table(rows: Sequence[Row], title: str) -> Table:
    """The table as rich draws it."""
    table = Table(title=title, title_justify="left")
    table.add_column("run", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.heading, justify="right")
    for row in rows:
        table.add_row(row.point.name, *cells(row))
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table in Markdown."""
    lines = [
        "| run | " + " | ".join(column.heading for column in COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    lines += [f"| {row.point.name} | " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def means_table(rows: Sequence[Row]) -> str:
    """A row for each method and size: mean over seeds, and half of their range."""
    lines = [
        "| runs | seeds | " + " | ".join(column.heading for column in COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for (method, size), group in groups(rows).items():
        values = " | ".join(_mean_cell(group, column) for column in COLUMNS)
        lines.append(f"| {method} {size} | {len(group)} | {values} |")
    return "\n".join(lines)


def _mean_cell(group: Group, column: Column) -> str:
    runs = group.values()
    values = [numbers[column.name] for numbers in runs if column.name in numbers]
    if not values:
        return "-"
    middle = format(sum(values) / len(values), column.form)
    if len(values) == 1 or min(values) == max(values):
        return middle
    return f"{middle} ±{format((max(values) - min(values)) / 2, column.form)}"


def cells(row: Row) -> list[str]:
    """The numbers of a row as text: "-" is one that does not exist, "…" not yet."""
    if row.result is None:
        return ["…"] * len(COLUMNS)
    numbers = row.result.numbers
    return [
        format(numbers[column.name], column.form) if column.name in numbers else "-"
        for column in COLUMNS
    ]
