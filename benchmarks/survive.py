"""A run that is killed again and again ends as one that was not.

python -m benchmarks.survive --kills 20
python -m benchmarks.survive --kills 20 --processes 2

Each kill is a `kill -9` of a small pre-training on tars at a random moment: in a step
or while one loads, while a checkpoint is half written, or anywhere from its start on.
Then the same command is run again. At the end the state must be the uninterrupted run's
bit for bit, and the examples behind it those of the order, none skipped and none twice.
"""

import argparse
from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import random
import socket
import subprocess
import sys
import tempfile
import time

from benchmarks.survive_worker import NUM_STEPS, reader_of
from benchmarks.table import print_table
from experiments import make_scenes_tars


MOMENTS = ("stepping or loading", "writing a checkpoint", "any moment")
ROOT = Path(__file__).parents[1]
WORKER = Path("benchmarks", "survive_worker.py")


@dataclasses.dataclass(frozen=True)
class Kill:
    """When it was, what the run was doing, and how far the next one had to go back."""

    moment: str
    seconds: float
    seen: int  # the last step whose batch had been taken
    resumed: int  # the step that the next process began with


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How the killed runs compare with the one that was not."""

    kills: list[Kill]
    same_state: bool
    same_log: bool
    wrong_steps: list[int]  # that had read other examples than the order says


def survive(
    folder: Path,
    kills: int,
    *,
    model: str = "pretraining",
    processes: int = 1,
    seed: int = 0,
) -> Verdict:
    """Runs to the end without and with `kills`, and compares.

    A run that comes to its end is compared and another one begun, until there were as
    many kills as asked for.
    """
    whole, runs, done = folder / "whole", [folder / "killed-0"], []
    start = lambda run: start_workers(folder, run, model, processes)
    tars = folder / "tars"
    make_scenes_tars.make(make_scenes_tars.Options(out=tars, num=96, per_shard=24))
    finish_workers(start(whole))
    usual = json.loads((whole / "seconds.json").read_text())
    draw = random.Random(seed)
    while len(done) < kills:
        run = runs[-1]
        old = _half_written(run)  # by one that was killed before
        workers = start(run)
        begun = time.monotonic()
        moment = MOMENTS[len(done) % len(MOMENTS)]
        if moment == "writing a checkpoint":
            came = _wait(
                workers,
                lambda run=run, old=old: bool(_half_written(run) - old),
            )
        elif moment == "stepping or loading":
            last = max(_taken(run), default=0) + draw.randrange(5)
            came = _wait(
                workers, lambda run=run, last=last: max(_taken(run), default=0) > last
            )
            time.sleep(draw.uniform(0, 0.03))
        else:
            end = begun + draw.uniform(0, usual)
            came = _wait(workers, lambda end=end: time.monotonic() > end)
        if not came:
            finish_workers(workers)
            runs.append(folder / f"killed-{len(runs)}")
            continue
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
        seconds = time.monotonic() - begun
        done.append(Kill(moment, seconds, max(_taken(run), default=0), _newest(run)))
    finish_workers(start(runs[-1]))
    sampler = reader_of(tars).sampler
    order = {step + 1: sampler(step).tolist() for step in range(NUM_STEPS)}
    compared = [whole, *runs]
    same = lambda read: all(read(run) == read(whole) for run in runs)
    return Verdict(
        kills=done,
        same_state=same(lambda run: (run / "state.txt").read_text()),
        same_log=same(_log),
        wrong_steps=sorted(
            step
            for run in compared
            for step, rows in order.items()
            if _taken(run).get(step) != rows
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--model", choices=("pretraining", "line"), default="pretraining"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        verdict = survive(
            Path(scratch),
            options.kills,
            model=options.model,
            processes=options.processes,
            seed=options.seed,
        )
    rows = [
        (kill.moment, f"{kill.seconds:.1f}", str(kill.seen), str(kill.resumed))
        for kill in verdict.kills
    ]
    columns = ("killed while", "after s", "batch taken", "continued from")
    title = f"{len(rows)} kills of {options.processes} processes, {NUM_STEPS} steps"
    print_table(title, columns, rows)
    print(f"\nstate bit for bit the same: {verdict.same_state}")
    print(f"log the same, but for the clock: {verdict.same_log}")
    print(f"steps that read other examples: {verdict.wrong_steps or 'none'}")
    if not verdict.same_state or not verdict.same_log or verdict.wrong_steps:
        raise SystemExit(1)


def start_workers(
    folder: Path,
    run: Path,
    model: str,
    processes: int,
    *,
    devices: int = 1,
    root: Path = ROOT,
) -> list[subprocess.Popen]:
    """Processes of `survive_worker`, with so many simulated devices each.

    `root`: the checkout whose code they run.
    """
    worker = root / WORKER
    environment = dict(os.environ)
    environment |= {
        "JAX_PLATFORMS": "cpu",
        # Compiled once for all: or a kill would hardly ever find anything else.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join([str(root), *sys.path]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    run.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    workers = []
    for index in range(processes):
        command = [sys.executable, str(worker), str(run), model]
        if processes > 1:
            command += [f"localhost:{port}", str(processes), str(index)]
        with (run / f"output-{index}.txt").open("ab") as output:
            workers.append(
                subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            )
    return workers


def finish_workers(workers: list[subprocess.Popen]) -> None:
    """Waits for their end; a `RuntimeError` with what one said that failed."""
    for index, worker in enumerate(workers):
        if status := worker.wait(600):
            run = Path(worker.args[2])  # type: ignore
            output = (run / f"output-{index}.txt").read_text()
            why = output[max(0, output.rfind("Traceback")) :][:3000]
            raise RuntimeError(f"Worker {index} ended with {status}:\n{why}")


def _wait(workers: list[subprocess.Popen], until: Callable[[], bool]) -> bool:
    """Whether the moment came before the end of the run."""
    while all(worker.poll() is None for worker in workers):
        if until():
            return True
        time.sleep(0.001)
    return False


def _half_written(run: Path) -> set[int]:
    """The folders of unfinished checkpoints: Orbax renames what is whole."""
    found = set()
    for path in (run / "checkpoints").glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            found.add(path.stat().st_ino)
    return found


def _taken(run: Path) -> dict[int, list[int]]:
    """The rows that each step took, the last time it did."""
    taken = {}
    for path in sorted(run.glob("taken-*.jsonl")):
        own: dict[int, list[int]] = {}
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # torn by a kill
                step, rows = json.loads(line)
                own[step] = rows
        for step, rows in own.items():
            taken[step] = taken.get(step, []) + rows
    return taken


def _newest(run: Path) -> int:
    steps = [path.name for path in (run / "checkpoints").glob("*")]
    return max((int(name) for name in steps if name.isdigit()), default=0)


def _log(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for line in found:
        del line["seconds"]
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
