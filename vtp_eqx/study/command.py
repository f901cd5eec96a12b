"""A study as a command: plan, execute what is missing, redraw, report."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import os
from pathlib import Path
import shlex
import sys
import time
from typing import Literal

import jax
from rich.console import Console

from vtp_eqx.config import require
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.run_dir import check_disk_space, disk_errors, DiskSpaceError
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import prepare
from vtp_eqx.study.report import (
    Origin,
    read_records,
    RecordsError,
    rows_of,
    write_report,
)
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash, vision_flops
from vtp_eqx.study.scheduler import execute_runs, SECONDS_TO_SAVE, usable_cores
from vtp_eqx.study.table import (
    Column,
    COLUMNS,
    finished_rows as finished_rows,
    num_runs,
    Row,
    terminal_table,
)
from vtp_eqx.training.flops import generator_flops, run_flops


Scale = Literal["smoke", "laptop", "workstation"]
SPACE_NEEDED = 2e9  # bytes
INTERRUPTED = 130  # exit status: 128 + 2
# FLOPs that starting, compiling and measuring cost a run beside its trainings.
OVERHEAD = 2e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What every study takes on the command line."""

    scale: Literal["laptop", "workstation"] = "laptop"
    """How large: for two CPU cores, or for a GPU."""
    seeds: int = 1
    """Tokenizers trained for each setting, with seeds 0, 1, ..."""
    smoke: bool = False
    """Only try that everything runs: tiny models, few steps, one seed, meaningless
    numbers."""
    runs: Path = Path("runs")
    """Where runs are kept, and found again by the hash of their config."""
    reuse_results: tuple[Path, ...] = ()
    """`runs.json` of reports: runs found there are not executed again."""
    out: Path | None = None
    """Where table, figure and report go; by default a folder in `runs`."""
    methods: tuple[str, ...] = ()
    """Methods to execute now, as the table calls them; by default all. Where not all
    are finished, the report says so."""
    settings: tuple[str, ...] = ()
    """Settings to execute now, by default all."""
    workers: int | None = None
    """Processes at a time; by default one a core, but one where there is a GPU."""

    def __post_init__(self):
        require_local_fields(self)
        for name in ("seeds", "workers"):
            number = getattr(self, name)
            require(
                number is None or number >= 1,
                f"`{name}` ({number}) must be 1 or more: leave it out for the default.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked, by which runs, and how the answer is drawn and summarized."""

    name: str
    title: str
    question: str
    plan: Callable[[Scale, Sequence[int]], list[RunSpec]]
    figure: Callable[[Sequence[Row], Path, str], None]
    summary: Callable[[Sequence[Row]], list[str]]
    columns: Sequence[Column] = COLUMNS


@exit_with_message(seconds=2 * SECONDS_TO_SAVE)
def run_study(study: Study, options: StudyOptions) -> None:
    """Executes every run of `study.plan(scale, seeds)` that is missing, and reports.

    Table, figure and report are drawn again as each run finishes. Exits with 1 where a
    run failed, after all others are done, and with 130 where it is interrupted.
    """
    commit()  # of what is being run, wherever the checkout goes meanwhile
    console = Console(width=None if sys.stdout.isatty() else 160)
    scale: Scale = "smoke" if options.smoke else options.scale
    title = study.title
    specs = study.plan(scale, range(1 if options.smoke else options.seeds))
    try:
        known = read_records(options.reuse_results)
    except RecordsError as error:
        raise SystemExit(str(error)) from error
    out = options.out or options.runs / f"{study.name}-{scale}" / study.name
    figure = out / "figures" / f"{study.name}.png"
    paths = RunPaths(options.runs)
    command = shlex.join(["python", *sys.argv])
    begun = time.monotonic()

    def redraw() -> list[Row]:
        rows = rows_of(specs, paths, known)
        study.figure(rows, figure, title)
        write_report(
            rows, paths, out, title=title, question=study.question,
            summary=study.summary(rows), columns=study.columns, figure=figure,
            origin=Origin(command=command, seconds=time.monotonic() - begun),
        )  # fmt: skip
        return rows

    def finished(spec: RunSpec) -> None:
        result = next(row.result for row in redraw() if row.spec == spec)
        if result is not None:
            console.print(_line(spec, result.numbers, study.columns))

    rows = rows_of(specs, paths, known)
    missing = _wanted(rows, options)
    planned = num_runs(rows)
    where = ", ".join(str(place) for place in (options.runs, *options.reuse_results))
    done = num_runs(finished_rows(rows))
    console.print(f"{title}: {planned} runs, {done} of them found in {where}.")
    workers = _num_workers(options.workers)
    with _room(options.runs, out):
        for spec in missing:
            prepare(spec, paths.data(spec), console.print)
        redraw()
        try:
            failed = execute_runs(
                missing, paths, num_workers=workers, cost=run_cost, finished=finished,
                console=console,
            )  # fmt: skip
        except KeyboardInterrupt:
            console.print("Interrupted: run the command again to go on from there.")
            raise SystemExit(INTERRUPTED) from None
        rows = redraw()
    console.print(terminal_table(rows, title, study.columns))
    for sentence in study.summary(rows):
        console.print(sentence, style="bold", highlight=False)
    console.print(f"Report: {out / 'report.md'}\nFigure: {figure}")
    if failed:
        names = "; ".join(spec.name for spec in failed)
        console.print(f"[red]Failed: {names}.[/red] Run the command again to retry.")
        raise SystemExit(1)


def run_cost(spec: RunSpec) -> float:
    """FLOPs of a run, roughly: of its trainings, and what they are for every run."""
    generate = spec.generate
    training = 3 * generator_flops(generate.dit) * generate.batch_size
    tokenizer = run_flops(spec.pretrain) + vision_flops(spec)
    return tokenizer + training * generate.num_steps + OVERHEAD


def in_order(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Different runs, seed by seed, so that a study that is cut off has whole seeds.

    Of each seed the cheapest first, so that there is soon something to see, then by
    falling cost, because long ones last would leave cores idle at the end. Runs that
    share a tokenizer with an earlier one come last: by then it is there.
    """
    different = {spec_hash(spec): spec for spec in reversed(specs)}
    by_seed: dict[int, list[RunSpec]] = {}
    for spec in reversed(different.values()):
        by_seed.setdefault(spec.seed, []).append(spec)
    ordered = []
    for _, some in sorted(by_seed.items()):
        rising = sorted(some, key=run_cost)
        sorted_specs = rising[:1] + rising[:0:-1]
        first: dict[Path, RunSpec] = {}
        for spec in sorted_specs:
            first.setdefault(RunPaths(Path()).tokenizer(spec), spec)
        makers = list(first.values())
        ordered += makers + [spec for spec in sorted_specs if spec not in makers]
    return ordered


def _wanted(rows: Sequence[Row], options: StudyOptions) -> list[RunSpec]:
    """The runs to execute, in order: those asked for that are not finished."""
    wanted = [row.spec for row in rows if row.result is None]
    for field in ("method", "setting"):
        asked = getattr(options, f"{field}s")
        there = sorted({getattr(row.spec, field) for row in rows})
        unknown = sorted(set(asked) - set(there))
        if unknown:
            raise SystemExit(
                f"`--{field}s` {unknown} must be of this study's {there}: change them."
            )
        wanted = [s for s in wanted if not asked or getattr(s, field) in asked]
    return in_order(wanted)


def _line(spec: RunSpec, numbers: dict[str, float], columns: Sequence[Column]) -> str:
    parts = [
        f"{column.heading} {format(numbers[column.name], column.form)}"
        for column in columns
        if column.name in numbers
    ]
    return f"{spec.name}: {', '.join(parts)}"


def _num_workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    on_cpu = jax.default_backend() == "cpu"
    return (len(usable_cores()) or os.cpu_count() or 1) if on_cpu else 1


@contextlib.contextmanager
def _room(*folders: Path) -> Iterator[None]:
    """Ends with a sentence where the folders cannot be written or the disk is full."""
    try:
        for folder in folders:
            check_disk_space(folder, SPACE_NEEDED)
        with disk_errors(folders[0]):
            yield
    except DiskSpaceError as error:
        raise SystemExit(error.strerror) from error
