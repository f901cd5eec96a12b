"""Runs as parallel processes on all cores, with their progress.

A worker writes its progress to a small file, which the study's display reads.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import math
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vtp_eqx.config import as_json
from vtp_eqx.files import write_text
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash


POLL_SECONDS = 0.5
LINE_SECONDS = 60.0  # between lines where there is no terminal
SECONDS_TO_SAVE = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageProgress:
    """`done` of `total` steps of `stage`, which was begun `seconds` ago."""

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """The stage's time left at its pace so far, or `None` before the first step."""
        if self.done == 0:
            return None
        return self.seconds / self.done * (self.total - self.done)


class ProgressWriter:
    """Writes a worker's progress, at most twice a second."""

    def __init__(self, path: Path):
        self._path, self._stage = path, ""
        self._begun = self._written = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports `done` of `total` in `stage`; a new name begins a new stage."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._first = stage, now, done
        elif now - self._written < 0.5 and done < total:
            return
        self._written = now
        # A resumed stage is timed from where it resumed.
        progress = StageProgress(
            stage=stage,
            done=done - self._first,
            total=total - self._first,
            seconds=now - self._begun,
        )
        write_text(self._path, json.dumps(dataclasses.asdict(progress)))


def read_progress(path: Path) -> StageProgress | None:
    """What the worker last reported, or `None` where it has not yet."""
    try:
        return StageProgress(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeLimits:
    """Seconds after which all runs, or a single one, are stopped; they can go on."""

    all_runs: float = math.inf
    one_run: float = math.inf

    def are_passed(self, begun: float, run_begun: float) -> bool:
        """Whether a run is to be stopped now, by when all and it have begun."""
        now = time.monotonic()
        return now - begun > self.all_runs or now - run_begun > self.one_run


NO_LIMITS = TimeLimits()


@dataclasses.dataclass
class _Worker:
    spec: RunSpec
    process: subprocess.Popen
    progress: Path
    log: Path
    task: TaskID
    core: int | None
    begun: float
    is_stopped: bool = False


def execute_runs(
    specs: Sequence[RunSpec],
    paths: RunPaths,
    *,
    num_workers: int,
    cost: Callable[[RunSpec], float],
    finished: Callable[[RunSpec], None],
    console: Console,
    limits: TimeLimits = NO_LIMITS,
) -> list[RunSpec]:
    """Executes every run in a process of its own, `num_workers` at a time.

    `finished(spec)` is called in this process as each ends well, and `cost(spec)` says
    how long one takes beside others. Returns the runs that failed; what they printed is
    shown, and kept under `logs`. An interrupt, and `limits`, stop the workers; what
    they had saved is used by the next call.
    """
    waiting, failed, done, begun = list(specs), [], 0, time.monotonic()
    workers: list[_Worker] = []
    free_cores = own_cores(num_workers)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    clock = _Clock(sum(map(cost, specs)), num_workers)
    with Progress(
        *columns, console=console, refresh_per_second=2, disable=not console.is_terminal
    ) as bars:
        overall = bars.add_task("all runs", total=len(specs), note="")
        try:
            while waiting or workers:
                while waiting and len(workers) < num_workers:
                    worker = _start(waiting.pop(0), paths, free_cores.pop(0), bars)
                    workers.append(worker)
                time.sleep(POLL_SECONDS)
                if limits.are_passed(begun, run_begun=math.inf):
                    waiting.clear()
                for worker in list(workers):
                    if limits.are_passed(begun, worker.begun):
                        worker.is_stopped = True
                        _stop([worker.process])
                    bars.update(worker.task, **_progress_bar(worker.progress))
                    if worker.process.poll() is None:
                        continue
                    workers.remove(worker)
                    free_cores.append(worker.core)
                    bars.remove_task(worker.task)
                    clock.add(cost(worker.spec), worker.begun)
                    if worker.process.returncode == 0:
                        done += 1
                        finished(worker.spec)
                    elif worker.is_stopped:
                        console.print(f"{worker.spec.name}: stopped, its time is over")
                    else:
                        failed.append(worker.spec)
                        _print_failure(worker, console)
                left = clock.time_left([worker.begun for worker in workers])
                bars.update(overall, completed=done, note=left)
                if not console.is_terminal and clock.is_line_due():
                    now = "; ".join(
                        f"{one.spec.name}: {_note(read_progress(one.progress))}"
                        for one in workers
                    )
                    console.print(
                        f"{done} of {len(specs)} runs done, {clock.elapsed()} gone"
                        f"{left and f', {left}'}. {now}"
                    )
        finally:
            _stop([worker.process for worker in workers])
    return failed


class _Clock:
    """Time gone, and time left at the speed of the finished runs."""

    def __init__(self, total: float, num_workers: int):
        self._left, self._num_workers = total, num_workers
        self._done = self._spent = 0.0  # cost of finished runs, and seconds in them
        self._begun = self._printed = time.monotonic()

    def elapsed(self) -> str:
        return _minutes(time.monotonic() - self._begun)

    def add(self, cost: float, begun: float) -> None:
        """Counts a run that has begun then and is finished now."""
        self._left -= cost
        self._done += cost
        self._spent += time.monotonic() - begun

    def time_left(self, begun: Sequence[float]) -> str:
        """In words, by when unfinished runs have begun; "" before one is finished."""
        if self._done == 0:
            return ""
        now = time.monotonic()
        per_unit = self._spent / self._done
        needed = self._left * per_unit - sum(now - one for one in begun)
        return f"about {_minutes(max(needed, 0.0) / self._num_workers)} left"

    def is_line_due(self) -> bool:
        now = time.monotonic()
        if now - self._printed < LINE_SECONDS:
            return False
        self._printed = now
        return True


def own_cores(num_workers: int) -> list[int | None]:
    """A core for each of several workers, or `None` where they are free to roam."""
    cores = usable_cores()
    if 1 < num_workers <= len(cores):
        return [*cores[:num_workers]]
    return [None] * num_workers


def usable_cores() -> list[int]:
    """The cores that this process may run on; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def worker_environment(core: int | None, root: Path) -> dict[str, str]:
    """One thread for a worker with its own core; compiled code is kept for all."""
    environment = dict(os.environ)
    # Small networks: what more optimization saves in a step, compilation takes.
    flags = ["--xla_backend_optimization_level=1"]
    if core is not None:
        # Two single-threaded processes use two cores better than one with two threads.
        flags.append("--xla_cpu_multi_thread_eigen=false")
        for library in ("OMP", "OPENBLAS", "MKL"):
            environment[f"{library}_NUM_THREADS"] = "1"
    environment["XLA_FLAGS"] = " ".join([*flags, environment.get("XLA_FLAGS", "")])
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    # A model's construction compiles hundreds of small functions: keep those too.
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return environment


def _start(spec: RunSpec, paths: RunPaths, core: int | None, bars: Progress) -> _Worker:
    folder = paths.result(spec)
    folder.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: another study may read it.
    write_text(folder / "spec.json", as_json(spec))
    progress = folder / "progress.json"
    progress.unlink(missing_ok=True)
    logs = paths.root / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{spec_hash(spec)}.txt"
    command = [sys.executable, "-m", "vtp_eqx.study.worker", str(paths.root)]
    command += [str(folder), str(os.getpid()), *([] if core is None else [str(core)])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=worker_environment(core, paths.root),
            # An interrupt of the terminal is for the study, which then stops workers.
            start_new_session=True,
        )
    task = bars.add_task(f"  {spec.name}", total=1.0, note="starting")
    return _Worker(spec, process, progress, log, task, core, time.monotonic())


def _stop(workers: Sequence[subprocess.Popen]) -> None:
    """Asks workers to save and end, and ends those that do not in time."""
    for worker in workers:
        worker.terminate()
    until = time.monotonic() + SECONDS_TO_SAVE
    for worker in workers:
        try:
            worker.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _progress_bar(path: Path) -> dict[str, Any]:
    progress = read_progress(path)
    if progress is None:
        return {}
    total = max(progress.total, 1)
    return {"completed": progress.done, "total": total, "note": _note(progress)}


def _note(progress: StageProgress | None) -> str:
    if progress is None:
        return "starting"
    left = progress.seconds_left
    time_left = "" if left is None else f", {_minutes(left)} left"
    return f"{progress.stage} {progress.done}/{progress.total}{time_left}"


def _print_failure(worker: _Worker, console: Console) -> None:
    tail = worker.log.read_text(errors="replace").splitlines()[-15:]
    console.print(
        f"[red]{worker.spec.name} failed[/red] with status "
        f"{worker.process.returncode}; the end of {worker.log}:"
    )
    console.print("\n".join(f"  {line}" for line in tail), markup=False)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
