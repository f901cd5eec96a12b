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

from vtp_eqx.data.skipped import Skipped
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


def numbers_table(numbers: Mapping[str, float], card: EvaluationCard) -> Table:
    """The numbers, with how many images they are of."""
    table = Table(title=f"{card.num_samples} images against {card.num_reference}")
    table.add_column("number")
    table.add_column("value", justify="right")
    for name, value in numbers.items():
        table.add_row(name, f"{value:.4f}")
    return table


def list_names(what: str, names: Sequence[str]) -> str:
    """A line that counts files and names the first of them."""
    return str(Skipped(what, len(names), names))
