"""Runs that are killed again and again end as ones that were not.

python -m benchmarks.survive --kills 20
python -m benchmarks.survive --kills 20 --processes 2

Each kill is a `kill -9` of a small run: of a pre-training on tars in a step or while
one loads, while a checkpoint is half written or half read, at the edge of an epoch, or
anywhere from its start on; of an extraction of latents; and of a sampling. Then the
same command is run again. At the end the state must be the uninterrupted run's bit for
bit, the examples it has learned from those of the order, none skipped and none twice,
and all latents and samples the same bytes.
"""

import argparse
from collections import Counter
from collections.abc import Callable
import contextlib
import dataclasses
import json
import multiprocessing
from pathlib import Path
import random
import socket
import statistics
import tempfile
import time
from typing import Any

from benchmarks.survive_worker import (
    CONFIG,
    forked,
    NUM_IMAGES,
    NUM_STEPS,
    reader_of,
    READY,
    RESTORING,
)
from benchmarks.table import print_table
from experiments import make_scenes_tars


STEPPING, SAVE, EDGE, RESTORE, ANY = (
    "stepping or loading",
    "writing a checkpoint",
    "at the edge of an epoch",
    "reading a checkpoint",
    "any moment",
)
TRAINING = (STEPPING, SAVE, EDGE, RESTORE, ANY)
# Of a training, and of the other jobs, which have files alone to tell how far they are.
MOMENTS = (*TRAINING, "extraction", "sampling")
PATTERNS = {"extraction": "shard-*.json", "sampling": "*.png"}
EPOCH = NUM_IMAGES // CONFIG.batch_size  # steps
CRASH_SECONDS = 60  # between two crashes, for the goodput

Workers = list[Any]


@dataclasses.dataclass(frozen=True)
class Kill:
    """When it was, what the run was doing, and how far the next one had to go back."""

    moment: str
    seconds: float
    seen: int  # the last step whose batch had been taken, or files that were whole
    resumed: int  # the step that the next process began with


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How the killed runs compare with those that were not."""

    kills: list[Kill]
    same_state: bool
    same_log: bool
    same_files: bool  # of the extraction and the sampling
    wrong_steps: list[int]  # that had read other examples than the order says
    restart_seconds: float  # until a step is done, with compiled programs on disk
    step_seconds: float

    @property
    def goodput(self) -> float:
        """The share of new steps in the time of a training that often crashes."""
        of_training = [kill for kill in self.kills if kill.moment in TRAINING]
        again = [max(kill.seen - kill.resumed, 0) for kill in of_training]
        lost = self.restart_seconds + self.step_seconds * statistics.mean(again or [0])
        return max(0.0, 1 - lost / CRASH_SECONDS)


def survive(
    folder: Path,
    kills: int,
    *,
    model: str = "pretraining",
    processes: int = 1,
    seed: int = 0,
) -> Verdict:
    """Runs to the end without and with `kills`, and compares.

    Moments take turns. A run that comes to its end is compared and another one
    begun, until there were as many kills as asked for.
    """
    context = _context()
    start = lambda run, job: _start(context, run, job, processes)
    tars = folder / "tars"
    options = make_scenes_tars.Options(out=tars, num=NUM_IMAGES, per_shard=24)
    make_scenes_tars.make(options)
    jobs = [model, *PATTERNS]
    whole = {job: folder / f"whole-{job}" for job in jobs}
    runs = {job: [folder / f"killed-{job}-0"] for job in jobs}
    for job in jobs:
        _finish(start(whole[job], job))
    usual = _seconds(whole[model])
    draw, done = random.Random(seed), []
    while len(done) < kills:
        moment = MOMENTS[len(done) % len(MOMENTS)]
        job = model if moment in TRAINING else moment
        run = runs[job][-1]
        if moment == RESTORE and not _newest(run):
            moment = ANY
        (run / RESTORING).unlink(missing_ok=True)
        old = _half_written(run)  # by one that was killed before
        wait = _moment(moment, run, old, usual, draw)
        workers, begun = start(run, job), time.monotonic()
        if not _wait(workers, wait):
            _finish(workers)
            runs[job].append(folder / f"killed-{job}-{len(runs[job])}")
            continue
        time.sleep(draw.uniform(0, 0.03))
        _kill(workers)
        seconds = time.monotonic() - begun
        is_missed = (moment == RESTORE and not (run / RESTORING).exists()) or (
            moment == SAVE and not _half_written(run) - old
        )
        moment = STEPPING if is_missed else moment
        seen = max(_taken(run), default=0) if job == model else _num_files(run, job)
        done.append(Kill(moment, seconds, seen, _newest(run) if job == model else seen))
    for job in jobs:
        _finish(start(runs[job][-1], job))
    sampler = reader_of(tars).sampler
    order = {step + 1: sampler(step).tolist() for step in range(NUM_STEPS)}
    same = lambda read, job: all(read(run) == read(whole[job]) for run in runs[job])
    ready = [
        json.loads(line)
        for run in runs[model]
        if (run / READY).exists()
        for line in (run / READY).read_text().splitlines()
    ]
    last = _seconds(runs[model][-1])
    return Verdict(
        kills=done,
        same_state=same(lambda run: (run / "state.txt").read_text(), model),
        same_log=same(_log, model),
        same_files=all(same(_contents, job) for job in jobs[1:]),
        wrong_steps=sorted(
            step
            for run in (whole[model], *runs[model])
            for step, rows in order.items()
            if _taken(run).get(step) != rows
        ),
        restart_seconds=statistics.median(ready),
        step_seconds=max(usual, last) / NUM_STEPS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    models = ("pretraining", "line")
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        verdict = survive(Path(scratch), **vars(options))
    counts = Counter(kill.moment for kill in verdict.kills)
    rows = []
    for moment in counts:
        own = [kill for kill in verdict.kills if kill.moment == moment]
        again = [max(kill.seen - kill.resumed, 0) for kill in own]
        steps = str(sum(again)) if moment in TRAINING else ""
        median = statistics.median(kill.seconds for kill in own)
        rows.append((moment, str(len(own)), f"{median:.1f}", steps))
    columns = ("killed while", "kills", "after s (median)", "steps done again")
    title = (
        f"{len(verdict.kills)} kills of {options.processes} processes "
        f"({options.model}), {NUM_STEPS} steps a run"
    )
    print_table(title, columns, rows)
    print(f"\nstate bit for bit the same: {verdict.same_state}")
    print(f"log the same, but for the clock: {verdict.same_log}")
    print(f"latents and samples the same bytes: {verdict.same_files}")
    print(f"steps that read other examples: {verdict.wrong_steps or 'none'}")
    print(
        f"goodput with a crash a minute: {verdict.goodput:.0%} (a step is done "
        f"{verdict.restart_seconds:.1f} s after a start)"
    )
    same = verdict.same_state and verdict.same_log and verdict.same_files
    if not same or verdict.wrong_steps:
        raise SystemExit(1)


def _context() -> Any:
    """Makes processes by forking one that has imported all and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "benchmarks.table", "experiments.make_scenes_tars", "benchmarks.survive_worker"
    ])  # fmt: skip
    return context


def _start(context: Any, run: Path, job: str, processes: int) -> Workers:
    run.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    workers = [
        context.Process(target=forked, args=(str(run), job, index, processes, port))
        for index in range(processes)
    ]
    for worker in workers:
        worker.start()
    return workers


def _kill(workers: Workers) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def _finish(workers: Workers) -> None:
    for index, worker in enumerate(workers):
        worker.join(600)
        if worker.exitcode:
            run = Path(worker._args[0])
            output = (run / f"output-{index}.txt").read_text()
            why = output[max(0, output.rfind("Traceback")) :][:3000]
            raise RuntimeError(f"Worker {index} ended with {worker.exitcode}:\n{why}")


def _moment(
    moment: str, run: Path, old: set[int], usual: float, draw: random.Random
) -> Callable[[], bool]:
    """Whether it has come."""
    taken = max(_taken(run), default=0)
    if moment == SAVE:
        return lambda: bool(_half_written(run) - old)
    if moment == RESTORE:
        return (run / RESTORING).exists
    if moment in (STEPPING, EDGE):
        last = taken + draw.randrange(5)
        if moment == EDGE:  # when the last batch of an epoch is taken, or the first
            last = taken // EPOCH * EPOCH + EPOCH - draw.randrange(2)
        return lambda: max(_taken(run), default=0) > last
    if moment in PATTERNS:
        files = _num_files(run, moment) + draw.randrange(4)
        return lambda: _num_files(run, moment) > files
    end = time.monotonic() + draw.uniform(0, usual)
    return lambda: time.monotonic() > end


def _wait(workers: Workers, until: Callable[[], bool]) -> bool:
    """Whether the moment came before the end of the run."""
    while all(worker.is_alive() for worker in workers):
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


def _num_files(run: Path, job: str) -> int:
    return sum(1 for _ in run.rglob(PATTERNS[job]))


def _contents(run: Path) -> dict[str, bytes]:
    """What a job has made, but for hidden files, locks and what workers say."""
    kinds = (".npy", ".png", ".json")
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.suffix in kinds and path.name != "seconds.json"
    }


def _seconds(run: Path) -> float:
    return json.loads((run / "seconds.json").read_text())


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
