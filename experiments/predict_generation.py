"""Which numbers of a tokenizer tell how well generators do on its latents?

    python experiments/predict_generation.py --runs runs   # 20 CPU-seconds a run
    python experiments/predict_generation.py --smoke       # does it run at all?

Diagnoses the tokenizer of every finished run of the studies, as `evaluate.py diagnose`
does, and ranks the numbers, and the flow loss of the generators, against the distance
of samples and class right, over methods and widths. What was diagnosed is kept with the
runs; `panel.json` beside the report draws it again without them, and joins the runs of
several machines (`--reuse-results`). `--help` lists the options.
"""

import os


# Before JAX is imported: networks are small, so that compiling takes longest, and
# threads wait for one another.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=1 --xla_cpu_multi_thread_eigen=false",
)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import shlex
import sys

from rich.console import Console
import tyro

from vtp_eqx.config import require
from vtp_eqx.evaluation.console import progress
from vtp_eqx.evaluation.latent_panel import MIN_IMAGES
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.study.command import run_cost
from vtp_eqx.study.dataset import prepare
from vtp_eqx.study.prediction import (
    diagnosed_run,
    DiagnosedRun,
    near_reconstructions,
    NUM_IMAGES,
    read_runs,
)
from vtp_eqx.study.prediction_report import write_prediction_report
from vtp_eqx.study.recipe import run, SMOKE
from vtp_eqx.study.run_spec import finished_specs, RunPaths, spec_hash
from vtp_eqx.study.scheduler import execute_runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is ranked, and where the report goes."""

    runs: Path | None = Path("runs")
    """Where studies keep their runs; `None` where only results are reused."""
    reuse_results: tuple[Path, ...] = ()
    """`panel.json` of reports: runs in them are ranked too."""
    num_images: int = NUM_IMAGES
    """Validation images that each tokenizer is diagnosed on, at most."""
    channels: tuple[int, ...] = ()
    """Only tokenizers of so many channels; by default all."""
    methods: tuple[str, ...] = ()
    """Only these methods, as reports call them; by default all."""
    max_rfd: float | None = None
    """Leave out tokenizers whose reconstructions have a larger distance, which their
    samples can hardly be below."""
    out: Path = Path("runs/predict_generation")
    """The folder of report, figure and `panel.json`."""
    smoke: bool = False
    """Only try that everything runs: two tiny runs are made in a folder of their own,
    and the numbers are meaningless."""

    def __post_init__(self):
        require_local_fields(self)
        require(
            self.runs is not None or (len(self.reuse_results) > 0 and not self.smoke),
            "`runs` (None) must be a folder where no results are reused: name one.",
        )
        require(
            self.num_images >= MIN_IMAGES,
            f"`num_images` ({self.num_images}) must be {MIN_IMAGES} or more: add some.",
        )


def make_runs(paths: RunPaths, console: Console) -> None:
    """Two tiny runs to try with: principal components, and the same rotated."""
    specs = [
        run(SMOKE, method, "8 channels", 0, latent_width=8)
        for method in ("PCA", "PCA rotated")
    ]
    prepare(specs[0].kind, paths.data(specs[0]), console.print)
    failed = execute_runs(
        specs, paths, num_workers=1, cost=run_cost, finished=lambda spec: None,
        console=console,
    )  # fmt: skip
    if failed:
        raise SystemExit(f"Failed: {'; '.join(spec.name for spec in failed)}.")


def diagnosed_runs(options: Options, console: Console) -> list[DiagnosedRun]:
    """Runs to reuse, and those of the folder that are not among them."""
    runs = read_runs(options.reuse_results, options.num_images)
    if options.runs is None:
        return runs
    paths = RunPaths(options.runs / "tried" if options.smoke else options.runs)
    known = {diagnosed.hash for diagnosed in runs}
    if options.smoke:
        make_runs(paths, console)
    specs = [s for s in finished_specs(paths) if spec_hash(s) not in known]
    with progress(console) as report:
        for done, spec in enumerate(specs, 1):
            diagnosed = diagnosed_run(spec, paths, options.num_images)
            runs += [] if diagnosed is None else [diagnosed]
            report("runs", done, len(specs))
    return runs


def main(options: Options) -> None:
    """Diagnoses what was not, and reports."""
    console = Console()
    runs, notes = diagnosed_runs(options, console), []
    if options.channels:
        runs = [run for run in runs if run.width in options.channels]
    if options.methods:
        runs = [run for run in runs if run.method in options.methods]
    if options.max_rfd is not None:
        runs, far = near_reconstructions(runs, options.max_rfd)
        named = ", ".join(f"{run.method} {run.setting}" for run in far) or "none"
        most = f"a distance of reconstructions above {options.max_rfd:g}"
        notes = [f"Left out, for {most}: {named}."]
    command = shlex.join(["python", *sys.argv])
    for sentence in write_prediction_report(runs, options.out, command, notes):
        console.print(sentence, highlight=False)
    console.print(f"Report: {options.out / 'report.md'}")


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError):
        main(tyro.cli(Options, description=__doc__))
