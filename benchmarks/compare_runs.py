"""Whether two runs are the same, bit for bit, and where they differ first.

python -m benchmarks.compare_runs runs/a runs/b --equal
python -m benchmarks.compare_runs HEAD~1 HEAD --equal
python -m benchmarks.compare_runs 1 2

A and B are folders of runs, or commits or numbers of devices, with which the small run
of `benchmarks.survive` is then made here. Checkpoints of the same step are compared
array by array, and the lines of `metrics.jsonl` number by number, without those that
tell the time. With `--equal`, prints the first step and array that differ, and ends
with status 1 if any does. Without, prints how far apart the metrics are.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import io
import math
import os
from pathlib import Path
import subprocess
import sys
import tarfile
import tempfile
from typing import NamedTuple

import numpy as np

from benchmarks.table import print_table
from experiments import make_scenes_tars
from vtp_eqx.runs.checkpoint import read_arrays
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.run_dir import CHECKPOINTS


# Of a log, what is another number each time.
TIMES = {"seconds", "images_per_second", "data_wait", "seconds_left", "mfu"}
UNITS = {
    "contrast": "nats", "distillation": "nats", "psnr": "dB", "skipped": "steps",
    "num_skipped": "steps", "rollbacks": "rollbacks",
}  # fmt: skip
ROOT = Path(__file__).parents[1]
WORKER = Path("benchmarks", "survive_worker.py")
_MAX_DEVICES = 999  # a longer number is a commit
_NUM_ROWS = 20  # of a table


class Difference(NamedTuple):
    """An array of a checkpoint, or a number of a line, that differs at one step.

    `reason` tells how: so many elements by so much, another shape, two numbers, or none
    in one of the runs.
    """

    step: int
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared of two runs, and what differs, in the order of steps."""

    steps: list[int]  # whose checkpoints both have
    num_arrays: int
    num_lines: int
    arrays: list[Difference]
    metrics: list[Difference]

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.arrays and not self.metrics


def compare(first: Path, second: Path) -> Comparison:
    """Compares two folders of runs; a `ValueError` where they have nothing in common.

    Steps of which only one run still has a checkpoint are left out; lines of the log
    that only one has are differences.
    """
    steps = sorted(_steps(first) & _steps(second))
    lines = [_lines(folder) for folder in (first, second)]
    common = sorted(lines[0].keys() | lines[1].keys())
    if not steps and not (lines[0].keys() & lines[1].keys()):
        raise ValueError(
            f"Two runs must share a step with a checkpoint or a line; {first} and "
            f"{second} share none: name the folders of two runs."
        )
    arrays, num_arrays = [], 0
    for step in steps:
        pair = [read_arrays(folder / CHECKPOINTS, step) for folder in (first, second)]
        for leaf in [*dict.fromkeys([*pair[0], *pair[1]])]:
            num_arrays += 1
            reason = _reason(pair[0].get(leaf), pair[1].get(leaf))
            if reason:
                arrays.append(Difference(step, leaf, reason))
    metrics = []
    for step in common:
        pair = [of_run.get(step, {}) for of_run in lines]
        for name in dict.fromkeys([*pair[0], *pair[1]]):
            ours, theirs = pair[0].get(name), pair[1].get(name)
            if ours != theirs:
                metrics.append(Difference(step, name, f"{ours} and {theirs}"))
    return Comparison(steps, num_arrays, len(common), arrays, metrics)


def made_run(name: str, scratch: Path, model: str) -> Path:
    """The folder of a run that `name` is, or of one made with that commit or devices.

    A `ValueError` where it is none of these.
    """
    if Path(name).is_dir():
        return Path(name)
    tars, run = scratch / "tars", scratch / f"run-{name.replace('/', '-')}"
    if not tars.exists():
        make_scenes_tars.make(make_scenes_tars.Options(out=tars, num=96, per_shard=24))
    if name.isdigit() and 0 < int(name) <= _MAX_DEVICES:
        _make_run(run, model, devices=int(name))
    else:
        _make_run(run, model, root=_checkout(name, scratch))
    return run


def _make_run(run: Path, model: str, *, devices: int = 1, root: Path = ROOT) -> None:
    """Runs the code of a checkout, in a process with so many simulated devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(root), *sys.path]),
    }
    run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(root / WORKER), str(run), model]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        why = ended.stderr[max(0, ended.stderr.rfind("Traceback")) :][:3000]
        raise RuntimeError(f"{run.name} ended with {ended.returncode}:\n{why}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", metavar="A")
    parser.add_argument("second", metavar="B")
    parser.add_argument("--equal", action="store_true")
    parser.add_argument("--model", choices=("pretraining", "line"), default="line")
    options = parser.parse_args(arguments)
    names = (options.first, options.second)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folders = [made_run(name, Path(scratch), options.model) for name in names]
            found = compare(*folders)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        lines = [_lines(folder) for folder in folders]
    if not options.equal:
        _print_metrics(names, lines)
        return
    print(
        f"Compared: {found.num_arrays} arrays in the checkpoints of steps "
        f"{found.steps}, {found.num_lines} lines of metrics."
    )
    if found.is_equal:
        print("The runs are equal, bit for bit.")
        return
    _print_differences(names, found)
    raise SystemExit(1)


def _print_differences(names: Sequence[str], found: Comparison) -> None:
    for kind, differences in (("array", found.arrays), ("metric", found.metrics)):
        for step, name, reason in differences[:1]:
            print(f"First {kind} that differs: {name}, step {step}: {reason}.")
    rows = sorted(found.arrays + found.metrics, key=lambda row: row.step)
    title = f"{names[0]} and {names[1]}: {len(rows)} differences, the first of them"
    cells = [(str(step), name, reason) for step, name, reason in rows[:_NUM_ROWS]]
    print_table(title, ("step", "array or metric", "difference"), cells)


def _print_metrics(
    names: Sequence[str], lines: Sequence[dict[int, dict[str, float]]]
) -> None:
    """How far apart numbers are at the last step of both, and at most."""
    steps = sorted(lines[0].keys() & lines[1].keys())
    columns = ("metric", "unit", "step", *names, "difference", "largest", "at step")
    series: dict[str, list[tuple[int, float, float]]] = {}
    for step in steps:
        ours, theirs = lines[0][step], lines[1][step]
        for name in ours.keys() & theirs.keys():
            series.setdefault(name, []).append((step, ours[name], theirs[name]))
    rows = []
    for name, values in sorted(series.items()):
        step, ours, theirs = values[-1]
        apart = {at: abs(mine - other) for at, mine, other in values}
        farthest = max(apart, key=lambda at: apart[at])
        numbers = (ours, theirs, theirs - ours)
        rows.append(
            (name, UNITS.get(name, ""), str(step), *(f"{one:.6g}" for one in numbers),
             f"{apart[farthest]:.3g}", str(farthest))
        )  # fmt: skip
    print_table(f"Metrics of {names[0]} and {names[1]}", columns, rows)


def _reason(first: np.ndarray | None, second: np.ndarray | None) -> str:
    """How two arrays differ; nothing where they do not."""
    if first is None or second is None:
        return f"only in {'B' if first is None else 'A'}"
    if first.shape != second.shape or first.dtype != second.dtype:
        return f"{first.dtype} {first.shape} and {second.dtype} {second.shape}"
    words = [
        np.ravel(array).view(f"u{array.dtype.itemsize}") for array in (first, second)
    ]
    differs = words[0] != words[1]
    if not differs.any():
        return ""
    values = [np.ravel(array)[differs].astype(np.float64) for array in (first, second)]
    with np.errstate(invalid="ignore"):
        largest = np.max(np.abs(values[0] - values[1]))
    return f"{differs.sum()} of {first.size} elements, by up to {largest:.3g}"


def _steps(folder: Path) -> set[int]:
    names = [path.name for path in (folder / CHECKPOINTS).glob("*")]
    return {int(name) for name in names if name.isdigit()}


def _lines(folder: Path) -> dict[int, dict[str, float]]:
    """The lines of a run's log by their steps, without what tells the time."""
    return {
        int(line["step"]): {
            name: value
            for name, value in line.items()
            if name not in TIMES and math.isfinite(value)
        }
        for line in read_log(folder / "metrics.jsonl")
    }


def _checkout(commit: str, scratch: Path) -> Path:
    """The code of a commit, in a folder of its own."""
    folder = scratch / f"commit-{commit.replace('/', '-')}"
    command = ["git", "-C", str(ROOT), "archive", commit]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise ValueError(
            f"A run must be a folder, a commit or a number of devices; got {commit!r}: "
            "name one of these."
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


if __name__ == "__main__":
    main()
