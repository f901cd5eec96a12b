"""Points as parallel processes that fill the cores, and how far each one is."""

from collections.abc import Callable, Sequence
import dataclasses
import os
from pathlib import Path
import subprocess
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vtp_eqx.config import as_json
from vtp_eqx.files import replacing
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.study.progress import read_standing, Standing


POLL_SECONDS = 0.5
SECONDS_TO_SAVE = 30.0


@dataclasses.dataclass
class _Worker:
    point: Point
    process: subprocess.Popen
    standing: Path
    log: Path
    task: TaskID
    core: int | None
    stage: str = ""


def run_points(
    points: Sequence[Point],
    places: Places,
    *,
    num_workers: int,
    finished: Callable[[Point], None],
    console: Console,
) -> list[Point]:
    """Runs every point in a process of its own, `num_workers` at a time.

    `finished(point)` is called in this process as each ends well. Returns the points
    that failed; what they printed is shown, and kept under `logs`. An interrupt stops
    the workers; what they had saved is used by the next call.
    """
    waiting, failed = list(points), []
    workers: list[_Worker] = []
    free_cores = own_cores(num_workers)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        overall = progress.add_task("all points", total=len(points), note="")
        begun, ended = time.monotonic(), 0
        try:
            while waiting or workers:
                while waiting and len(workers) < num_workers:
                    core = free_cores.pop(0)
                    worker = _start(waiting.pop(0), places, core, progress)
                    workers.append(worker)
                time.sleep(POLL_SECONDS)
                for worker in list(workers):
                    _show(worker, progress, console)
                    if worker.process.poll() is None:
                        continue
                    workers.remove(worker)
                    free_cores.append(worker.core)
                    progress.remove_task(worker.task)
                    ended += 1
                    if worker.process.returncode == 0:
                        finished(worker.point)
                    else:
                        failed.append(worker.point)
                        _lament(worker, console)
                    left = (time.monotonic() - begun) / ended * (len(points) - ended)
                    progress.update(
                        overall, completed=ended, note=f"about {_minutes(left)} left"
                    )
        finally:
            _stop([worker.process for worker in workers])
    return failed


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
    if core is not None:
        # Two single-threaded processes use two cores better than one with two threads.
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        for library in ("OMP", "OPENBLAS", "MKL"):
            environment[f"{library}_NUM_THREADS"] = "1"
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compiled"))
    # A model's construction compiles hundreds of small functions: keep those too.
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return environment


def _start(
    point: Point, places: Places, core: int | None, progress: Progress
) -> _Worker:
    folder = places.point(point)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "point.json") as unfinished:  # another study may read it
        unfinished.write_text(as_json(point))
    standing = folder / "progress.json"
    standing.unlink(missing_ok=True)
    logs = places.root / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{point_hash(point)}.txt"
    command = [sys.executable, "-m", "vtp_eqx.study.worker", str(places.root)]
    command += [str(folder), str(os.getpid()), *([] if core is None else [str(core)])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=worker_environment(core, places.root),
            # An interrupt of the terminal is for the study, which then stops workers.
            start_new_session=True,
        )
    task = progress.add_task(f"  {point.name}", total=1.0, note="starting")
    return _Worker(point, process, standing, log, task, core)


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


def _show(worker: _Worker, progress: Progress, console: Console) -> None:
    standing = read_standing(worker.standing)
    if standing is None:
        return
    progress.update(
        worker.task, completed=standing.done, total=max(standing.total, 1),
        note=_note(standing),
    )  # fmt: skip
    if standing.stage != worker.stage:
        worker.stage = standing.stage
        if not console.is_terminal:
            # A log has no moving bars: say at least where each worker is.
            console.print(f"{worker.point.name}: {standing.stage}")


def _note(standing: Standing) -> str:
    left = standing.seconds_left
    pace = "" if left is None else f", {_minutes(left)} left"
    return f"{standing.stage} {standing.done}/{standing.total}{pace}"


def _lament(worker: _Worker, console: Console) -> None:
    tail = worker.log.read_text(errors="replace").splitlines()[-15:]
    console.print(
        f"[red]{worker.point.name} failed[/red] with status "
        f"{worker.process.returncode}; the end of {worker.log}:"
    )
    console.print("\n".join(f"  {line}" for line in tail), markup=False)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
