"""Handling of failed steps: counting, skipping batches, writing a postmortem.

A step that was *skipped* left the state as it was, and says so in its metric
`skipped`; a step whose metrics are not finite, and that does not say so, broke it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh

from vtp_eqx.config import first_sentence
from vtp_eqx.files import write_text
from vtp_eqx.mesh import shard_batch
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.training.state import copy_arrays, TrainState


REPORT = "report.json"


@dataclasses.dataclass(frozen=True)
class FailedStep:
    """A step that failed: its number, the number of its batch, and its metrics."""

    step: int
    batch: int
    metrics: dict[str, float]


class DivergedError(FloatingPointError):
    """A run that should roll back: `failed` are the consecutive steps that failed."""

    def __init__(self, failed: Sequence[FailedStep], is_broken: bool):
        self.failed, self.is_broken = tuple(failed), is_broken
        last = self.failed[-1]
        infinite = sorted(
            name for name, value in last.metrics.items() if not math.isfinite(value)
        )
        reason = ", ".join(f"{name} = {last.metrics[name]}" for name in infinite)
        if not infinite:
            reason = f"{len(self.failed)} skipped steps in a row"
        super().__init__(
            f"Every loss term must be finite; got {reason} at step {last.step}: lower "
            "the learning rate, or look for broken images in that batch."
        )


class FailureCounter:
    """Counts consecutive failed steps; raises `DivergedError` for a rollback.

    That is at once where the state is broken, and after `max_consecutive` skipped
    steps.
    """

    def __init__(self, max_consecutive: int):
        self._max_consecutive = max_consecutive
        self.failed: list[FailedStep] = []

    @property
    def is_next_critical(self) -> bool:
        """Whether one more failed step may be too many."""
        return bool(self.failed) or self._max_consecutive <= 1

    def add(self, step: int, batch: int, metrics: Mapping[str, float]) -> None:
        """Counts a step if it failed, and starts anew if it did not."""
        is_skipped = metrics.get("skipped", 0) > 0
        is_broken = not is_skipped and not all(map(math.isfinite, metrics.values()))
        if not is_skipped and not is_broken:
            self.failed = []
            return
        self.failed.append(FailedStep(step, batch, dict(metrics)))
        if is_broken or len(self.failed) >= self._max_consecutive:
            raise DivergedError(self.failed, is_broken)


class SkippedBatches:
    """The batches that a run skips, in a file of its folder.

    Steps read one batch after the other except for those; without any, step `s` reads
    batch `s`.
    """

    def __init__(self, path: Path):
        self._path = path
        self.rollbacks: list[dict[str, Any]] = []
        if path.exists():
            with _damage_named(path, "restore it, or choose another folder"):
                self.rollbacks = json.loads(path.read_text())
                _ = self.batches

    @property
    def batches(self) -> set[int]:
        """Their numbers."""
        return {batch for rollback in self.rollbacks for batch in rollback["batches"]}

    def add(self, step: int, batches: Sequence[int]) -> None:
        """Skips `batches`, on which steps up to `step` failed, from now on."""
        self.rollbacks.append({"step": step, "batches": sorted(batches)})
        if is_main_process():
            write_text(self._path, json.dumps(self.rollbacks) + "\n")

    def first(self, step: int) -> int:
        """The batch that the run reads after `step` steps."""
        skipped, batch = self.batches, 0
        if not skipped:
            return step
        while step > 0 or batch in skipped:
            step -= batch not in skipped
            batch += 1
        return batch

    def remaining(
        self, batches: Callable[[int], Iterator[Any]], step: int
    ) -> Generator[tuple[int, Any], None, None]:
        """Numbers and batches of the steps after `step` steps."""
        skipped, number = self.batches, self.first(step)
        for batch in batches(number):
            if number not in skipped:
                yield number, batch
            number += 1


def write_postmortem(
    folder: Path,
    state: TrainState,
    error: DivergedError,
    *,
    description: str,
    rows: Callable[[int], Sequence[int]] | None,
) -> None:
    """Writes `report.json` and `state` for `replay`.

    `description` says in words which state that is, and `rows(batch)` are the positions
    of a batch's examples in the data.
    """
    with Checkpoints(folder / "state", keep=1) as checkpoints:
        if checkpoints.latest_step() is None:
            checkpoints.save(state)
    if not is_main_process():
        return
    failed = [
        {
            "step": step.step,
            "batch": step.batch,
            "rows": [] if rows is None else [int(row) for row in rows(step.batch)],
            # JSON has no number that is not finite; `float` reads the text.
            "metrics": {
                name: value if math.isfinite(value) else str(value)
                for name, value in step.metrics.items()
            },
        }
        for step in error.failed
    ]
    report = {"why": str(error), "state": description, "bad": failed}
    write_text(folder / REPORT, json.dumps(report, indent=1) + "\n")


def read_postmortem(folder: Path) -> dict[str, Any]:
    """The report in a folder of `postmortem/`."""
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(
            f"`folder` ({folder}) has no {REPORT}, which every postmortem has: name "
            "one of the folders in a run's `postmortem`."
        )
    with _damage_named(path, "name another folder"):
        report = json.loads(path.read_text())
        for step in report["bad"]:
            _ = step["step"], step["batch"]
    return report


@contextlib.contextmanager
def _damage_named(path: Path, fix: str) -> Iterator[None]:
    """A block that reads a JSON file of a run; a `ValueError` where that is damaged."""
    try:
        yield
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be as the run wrote it, and is damaged "
            f"({first_sentence(error)}): {fix}."
        ) from error


def replay(
    folder: Path,
    template: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]],
    batches: Callable[[int], Iterator[Any]],
    mesh: Mesh,
) -> list[FailedStep]:
    """Runs the failed steps of a postmortem again; the metrics they have here.

    Each starts from the state that was kept, at its own step number, so that its random
    choices are those of the run (those of `make_views` on any number of devices).
    """
    report = read_postmortem(folder)
    with Checkpoints(folder / "state", keep=1) as checkpoints:
        state = checkpoints.restore(template)
    replayed = []
    for failed in report["bad"]:
        before = jnp.asarray(failed["step"] - 1, state.step.dtype)
        again = eqx.tree_at(lambda state: state.step, copy_arrays(state), before)
        batch = shard_batch(next(iter(batches(failed["batch"]))), mesh)
        _, metrics = step(again, batch)
        values = {name: float(value) for name, value in metrics.items()}
        replayed.append(FailedStep(failed["step"], failed["batch"], values))
    return replayed
