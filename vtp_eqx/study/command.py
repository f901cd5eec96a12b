"""A study as a command: plan, run what is missing, redraw, report."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import sys
import time
from typing import Literal

import jax
from rich.console import Console

from vtp_eqx.config import require
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import prepare
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.study.report import read_records, RecordsError, rows_of, write_report
from vtp_eqx.study.schedule import run_points, usable_cores
from vtp_eqx.study.table import num_runs, Row, terminal_table
from vtp_eqx.training.flops import run_flops
from vtp_eqx.training.folder import check_room, NoRoomError, said_when_full


Scale = Literal["smoke", "laptop", "workstation"]
SPACE_NEEDED = 2e9  # bytes
INTERRUPTED = 130  # exit status: 128 + 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What every study takes on the command line."""

    scale: Literal["laptop", "workstation"] = "laptop"
    """How large: minutes on two CPU cores, or minutes on a GPU."""
    seeds: int = 1
    """Tokenizers trained for each point, with seeds 0, 1, ..."""
    smoke: bool = False
    """Only try that everything runs: tiny models, few steps, one seed, meaningless
    numbers."""
    runs: Path = Path("runs")
    """Where runs are kept, and found again by the hash of their config."""
    known: tuple[Path, ...] = ()
    """`runs.json` of reports, by which runs that are not at hand count as finished."""
    out: Path | None = None
    """Where table, figure and report go; by default a folder in `runs`."""
    workers: int | None = None
    """Processes at a time; by default one a core, but one where there is a GPU."""

    def __post_init__(self):
        for name in ("seeds", "workers"):
            number = getattr(self, name)
            require(
                number is None or number >= 1,
                f"`{name}` must be 1 or more; got {number}: leave it out for the "
                "default.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, by which runs, and how the answer is drawn and said."""

    name: str
    title: str
    question: str
    plan: Callable[[Scale, Sequence[int]], list[Point]]
    figure: Callable[[Sequence[Row], Path, str], None]
    findings: Callable[[Sequence[Row]], list[str]]


def run_study(study: Study, arguments: Arguments) -> None:
    """Runs every point of `study.plan(scale, seeds)` that is missing, and reports.

    Table, figure and report are drawn again as each point finishes. Exits with 1 where
    a point failed, after all others are done, and with 130 where it is interrupted.
    """
    commit()  # of what is being run, wherever the checkout goes meanwhile
    console = Console(width=None if sys.stdout.isatty() else 160)
    scale: Scale = "smoke" if arguments.smoke else arguments.scale
    title = study.title
    points = study.plan(scale, range(1 if arguments.smoke else arguments.seeds))
    try:
        known = read_records(arguments.known)
    except RecordsError as error:
        raise SystemExit(str(error)) from error
    out = arguments.out or arguments.runs / f"{study.name}-{scale}" / study.name
    figure = out / "figures" / f"{study.name}.png"
    places = Places(arguments.runs)
    command = " ".join(["python", *sys.argv])
    begun = time.monotonic()

    def redraw() -> None:
        rows = rows_of(points, places, known)
        study.figure(rows, figure, title)
        write_report(
            rows, study.findings(rows), places, out, title=title,
            question=study.question, figure=figure, command=command,
            seconds=time.monotonic() - begun,
        )  # fmt: skip

    def finished(point: Point) -> None:
        redraw()
        console.print(terminal_table(rows_of(points, places, known), title))

    rows = rows_of(points, places, known)
    missing = in_order([row.point for row in rows if row.result is None])
    planned = num_runs(rows)
    where = ", ".join(str(place) for place in (arguments.runs, *arguments.known))
    found = planned - len(missing)
    console.print(f"{title}: {planned} runs, {found} found in {where}.")
    workers = _num_workers(arguments.workers)
    with _room(arguments.runs, out):
        for point in missing:
            prepare(point, places.data(point), console.print)
        redraw()
        try:
            failed = run_points(
                missing, places, num_workers=workers, finished=finished, console=console
            )
        except KeyboardInterrupt:
            console.print("Interrupted: run the command again to go on from there.")
            raise SystemExit(INTERRUPTED) from None
        redraw()
    if not missing:
        console.print(terminal_table(rows_of(points, places, known), title))
    console.print(f"Report: {out / 'report.md'}\nFigure: {figure}")
    if failed:
        names = ", ".join(point.name for point in failed)
        console.print(f"[red]Failed: {names}.[/red] Run the command again to retry.")
        raise SystemExit(1)


def one_less(seeds: Sequence[int]) -> Sequence[int]:
    """All seeds but the last, or the only one: for what is not the main question."""
    return seeds[:-1] or seeds


def in_order(points: Sequence[Point]) -> list[Point]:
    """Different points, seed by seed, so that a study that is cut off has whole seeds.

    Of each seed the cheapest first, so that there is soon something to see, then by
    falling cost: long ones last would leave cores idle at the end.
    """
    different = {point_hash(point): point for point in reversed(points)}
    by_seed: dict[int, list[Point]] = {}
    for point in different.values():
        by_seed.setdefault(point.seed, []).append(point)
    ordered = []
    for _, some in sorted(by_seed.items()):
        rising = sorted(some, key=lambda point: run_flops(point.pretrain))
        ordered += rising[:1] + rising[:0:-1]
    return ordered


def _num_workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    on_cpu = jax.default_backend() == "cpu"
    return (len(usable_cores()) or os.cpu_count() or 1) if on_cpu else 1


@contextlib.contextmanager
def _room(*folders: Path) -> Iterator[None]:
    """Ends with a sentence where the folders cannot be written, now or later."""
    try:
        for folder in folders:
            check_room(folder, SPACE_NEEDED)
        with said_when_full(folders[0]):
            yield
    except NoRoomError as error:
        raise SystemExit(error.strerror) from error
