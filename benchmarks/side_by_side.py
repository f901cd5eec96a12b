"""Processes of ours and of published PyTorch code that take turns at the same work.

Both live at the same time and take turns, so that what else the machine does meets both
alike; medians count. Each also times a plain matrix product, the size of a block's
largest: what this machine has to give.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
from pathlib import Path
import statistics
import subprocess
import sys
from types import ModuleType
from typing import Any


# Seconds and pages by side, part and quantity, of the median of all turns.
Measured = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    published: Path
    """A clone of the published code."""
    torch_python: Path
    """The Python that has torch and what the published code imports."""
    batch_size: int = 8
    repeats: int = 5
    """Turns whose medians count, after the first."""


class Worker:
    """A process that runs what it is asked to, and says how long it took."""

    def __init__(self, command: Sequence[object]):
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._answer()

    def ask(self, part: str) -> Any:
        """The answer to `part`, one of the worker's names."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{part}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("The process above ended early: see what it printed.")
        return json.loads(line)


@contextlib.contextmanager
def workers(
    options: Options, module: ModuleType, *words: object
) -> Iterator[dict[str, Worker]]:
    """A worker for each side: `module` as a program, with `words` for its arguments."""
    found = {}
    with contextlib.ExitStack() as stack:
        for side, python in (("ours", sys.executable), ("torch", options.torch_python)):
            command = [python, "-m", module.__name__, side, options.published, *words]
            found[side] = Worker(command)
            stack.callback(found[side].close)
        yield found


def measure(
    workers: Mapping[str, Worker], parts: Sequence[str], repeats: int
) -> Measured:
    """Medians of turns, and the seconds of the first, in which programs compile."""
    found = {side: {part: [] for part in parts} for side in workers}
    for turn in range(repeats + 1):
        sides = list(workers)[:: 1 if turn % 2 else -1]
        for part in parts:
            for side in sides:
                found[side][part].append(workers[side].ask(part))
    return {
        side: {part: _medians(runs) for part, runs in parts.items()}
        for side, parts in found.items()
    }


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    first, *others = runs
    medians = {n: statistics.median(run[n] for run in others) for n in first}
    return medians | {"first": first["wall"]}
