"""Terminal output of an evaluation: progress with the time left, and numbers."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vtp_eqx.evaluation.card import EvaluationCard
from vtp_eqx.evaluation.extract import Report


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Report]:
    """A progress callback that draws a bar for each stage, with the time left."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    stages = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            # Begun here, so that what an earlier run did is not counted as speed.
            stages[stage] = bars.add_task(stage, total=total, completed=done)
        bars.update(stages[stage], completed=done, total=total)

    with bars:
        yield report


def numbers_table(
    columns: Sequence[tuple[str, Mapping[str, float]]], card: EvaluationCard
) -> Table:
    """Sets of numbers by their titles, side by side, and the counts of images."""
    title = f"{card.num_samples} images against {card.num_reference}"
    table = Table("number", title=title)
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(name for _, numbers in columns for name in numbers):
        found = [numbers.get(name) for _, numbers in columns]
        cells = ["" if value is None else f"{value:.4f}" for value in found]
        table.add_row(name, *cells)
    return table
