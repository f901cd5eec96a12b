"""A study as a command: plan, execute what is missing, redraw, report."""

from vtp_eqx.interrupts import INTERRUPTED

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import math
import os
from pathlib import Path
import shlex
import sys
import time
from typing import Literal

import jax
from rich.console import Console

from vtp_eqx.config import require, SamplerConfig
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.run_dir import check_disk_space, disk_errors, DiskSpaceError
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import prepare
from vtp_eqx.study.measure import RecordsError
from vtp_eqx.study.recipe import Scale as Scale
from vtp_eqx.study.report import (
    read_records,
    rows_of,
    Study as Study,
    write_report,
)
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash, vision_flops
from vtp_eqx.study.scheduler import (
    execute_runs,
    SECONDS_TO_SAVE,
    TimeLimits,
    usable_cores,
)
from vtp_eqx.study.table import finished_rows, num_runs, Row, terminal_table
from vtp_eqx.training.flops import run_flops, train_step_flops
from vtp_eqx.training.parameter_counts import decoder_flops


SPACE_NEEDED = 2e9  # bytes
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
    minutes: float | None = None
    """Stop after so long. Runs then begin in the order of the plan, not the cheapest
    first; the same command goes on."""
    minutes_per_run: float | None = None
    """Stop a run that takes longer, and begin the next."""

    def __post_init__(self):
        require_local_fields(self)
        for name in ("seeds", "workers"):
            number = getattr(self, name)
            require(
                number is None or number >= 1,
                f"`{name}` ({number}) must be 1 or more: leave it out for the default.",
            )
        for name in ("minutes", "minutes_per_run"):
            number = getattr(self, name)
            require(
                number is None or number > 0,
                f"`{name}` ({number}) must be above 0: leave it out for no limit.",
            )

    @property
    def planned_scale(self) -> Scale:
        """The scale of the runs, "smoke" in a smoke run."""
        return "smoke" if self.smoke else self.scale

    @property
    def limits(self) -> TimeLimits:
        """Both limits in seconds."""
        seconds = lambda minutes: 60 * (minutes or math.inf)
        return TimeLimits(
            all_runs=seconds(self.minutes), one_run=seconds(self.minutes_per_run)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesOptions(StudyOptions):
    """Those of every study, and how samples are drawn."""

    guidance: float = 1.0
    """Classifier-free guidance of the samples; 1 is none."""

    def __post_init__(self):
        super().__post_init__()
        SamplerConfig(guidance=self.guidance)  # refused before a run begins, not after


@exit_with_message(RecordsError, seconds=2 * SECONDS_TO_SAVE)
def run_study(study: Study, options: StudyOptions) -> None:
    """Executes every run of `study.plan(scale, seeds)` that is missing, and reports.

    Table, figure and report are drawn again as each run finishes. Exits with 1 where a
    run failed, after all others are done, and with 130 where it is interrupted.
    """
    commit()  # of what is being run, wherever the checkout goes meanwhile
    console = Console(width=None if sys.stdout.isatty() else 160)
    scale = options.planned_scale
    specs = study.plan(scale, range(1 if options.smoke else options.seeds))
    known = read_records(options.reuse_results)
    out = options.out or options.runs / f"{study.name}-{scale}" / study.name
    paths = RunPaths(options.runs)
    begun = time.monotonic()

    def report() -> list[Row]:
        rows = rows_of(specs, paths, known)
        write_report(
            study, rows, paths, out, command=shlex.join(["python", *sys.argv]),
            seconds=time.monotonic() - begun,
        )  # fmt: skip
        return rows

    def finished(spec: RunSpec) -> None:
        result = next(row.result for row in report() if row.spec == spec)
        if result is not None:
            cells = [
                f"{column.heading} {format(result.numbers[column.name], column.form)}"
                for column in study.columns
                if column.name in result.numbers
            ]
            console.print(f"{spec.name}: {', '.join(cells)}")

    places = ", ".join(map(str, (options.runs, *options.reuse_results)))
    with _room(options.runs, out):
        for spec in _missing(rows_of(specs, paths, known), options):
            prepare(spec.kind, paths.data(spec), console.print)
        # Not before: which results are comparable, the network made with data decides.
        rows = report()
        missing, done = _missing(rows, options), num_runs(finished_rows(rows))
        console.print(
            f"{study.title}: {num_runs(rows)} runs, {done} of them found in {places}."
        )
        try:
            failed = execute_runs(
                missing, paths, num_workers=_num_workers(options.workers),
                cost=run_cost, finished=finished, console=console,
                limits=options.limits,
            )  # fmt: skip
        except KeyboardInterrupt:
            console.print("Interrupted: run the command again to go on from there.")
            raise SystemExit(INTERRUPTED) from None
        rows = report()
    console.print(terminal_table(rows, study.title, study.columns))
    for sentence in study.sentences(rows):
        console.print(sentence, style="bold", highlight=False)
    console.print(f"Report: {out / 'report.md'}")
    if failed:
        names = "; ".join(spec.name for spec in failed)
        console.print(f"[red]Failed: {names}.[/red] Run the command again to retry.")
        raise SystemExit(1)


def run_cost(spec: RunSpec) -> float:
    """FLOPs of a run, roughly: of its trainings, and `OVERHEAD`."""
    tokenizer, generate = run_flops(spec.pretrain) + vision_flops(spec), spec.generate
    if spec.decode is not None:
        shape = dataclasses.replace(spec.tokenizer, decoder=spec.decode.decoder)
        stages = [stage for stage in (spec.decode, spec.finetune) if stage is not None]
        images = sum(stage.batch_size * stage.num_steps for stage in stages)
        tokenizer += 3 * decoder_flops(shape) * images
    return tokenizer + train_step_flops(generate) * generate.num_steps + OVERHEAD


def in_order(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Different runs, seed by seed, so that a study that is cut off has whole seeds.

    Of each seed the cheapest first, so that there is soon something to see, then by
    falling cost, because long ones last would leave cores idle at the end. Runs that
    share a tokenizer with an earlier one come last: by then it is there.
    """
    by_cost = sorted(_once(specs), key=run_cost)
    ordered = []
    for seed in sorted({spec.seed for spec in by_cost}):
        rising = [spec for spec in by_cost if spec.seed == seed]
        makers: dict[Path, RunSpec] = {}
        others = []
        for spec in rising[:1] + rising[:0:-1]:
            folder = RunPaths(Path()).tokenizer(spec)
            if makers.setdefault(folder, spec) is not spec:
                others.append(spec)
        ordered += [*makers.values(), *others]
    return ordered


def _once(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """Each run once, in the order given."""
    unique: dict[str, RunSpec] = {}
    for spec in specs:
        unique.setdefault(spec_hash(spec), spec)
    return list(unique.values())


def _missing(rows: Sequence[Row], options: StudyOptions) -> list[RunSpec]:
    """The runs to execute, in order: those asked for that are not finished."""
    specs = [row.spec for row in rows if row.result is None]
    for field in ("method", "setting"):
        asked = getattr(options, f"{field}s")
        planned = sorted({getattr(row.spec, field) for row in rows})
        unknown = sorted(set(asked) - set(planned))
        if unknown:
            raise SystemExit(
                f"`--{field}s` {unknown} must be of this study's {planned}: change "
                "them."
            )
        specs = [s for s in specs if not asked or getattr(s, field) in asked]
    return in_order(specs) if options.minutes is None else _once(specs)


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
