"""What a run does about steps that fail: count, go around, leave something to study.

A step that was *skipped* left the state as it was, and says so in its metric
`skipped`; a step whose metrics are not finite, and that does not say so, broke it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh

from vtp_eqx.files import atomic_path
from vtp_eqx.mesh import shard_batch
from vtp_eqx.training.checkpoint import Checkpoints
from vtp_eqx.training.multihost import is_main_process
from vtp_eqx.training.state import copy_arrays, TrainState


REPORT = "report.json"


@dataclasses.dataclass(frozen=True)
class FailedStep:
    """A step that failed: which, on which batch of the order, and its metrics."""

    step: int
    batch: int
    metrics: dict[str, float]


class DivergedError(FloatingPointError):
    """A run that should go back: `bad` are the steps in a row that failed."""

    def __init__(self, bad: Sequence[FailedStep], broken: bool):
        self.bad, self.broken = tuple(bad), broken
        last = self.bad[-1]
        wrong = [
            name for name, value in last.metrics.items() if not math.isfinite(value)
        ]
        found = ", ".join(f"{name} = {last.metrics[name]}" for name in sorted(wrong))
        if not wrong:
            found = f"{len(self.bad)} skipped steps in a row"
        super().__init__(
            f"Every loss term must be finite; got {found} at step {last.step}: lower "
            "the learning rate, or look for broken images in that batch."
        )


class FailureCounter:
    """Follows failed steps, and raises `DivergedError` when a run should go back.

    That is at once where the state is broken, and after `in_a_row` skipped steps.
    """

    def __init__(self, in_a_row: int):
        self._in_a_row = in_a_row
        self.row: list[FailedStep] = []

    @property
    def at_risk(self) -> bool:
        """Whether one more failed step may be too many."""
        return bool(self.row) or self._in_a_row <= 1

    def look(self, step: int, batch: int, metrics: Mapping[str, float]) -> None:
        """Takes note of a step."""
        skipped = metrics.get("skipped", 0) > 0
        broken = not skipped and not all(map(math.isfinite, metrics.values()))
        if not skipped and not broken:
            self.row = []
            return
        self.row.append(FailedStep(step, batch, dict(metrics)))
        if broken or len(self.row) >= self._in_a_row:
            raise DivergedError(self.row, broken)


class SkippedBatches:
    """The batches that a run goes around, in a file that belongs to the run.

    Steps read the batches of the order one after the other but for those; without any,
    step `s` reads batch `s`.
    """

    def __init__(self, path: Path):
        self._path = path
        self.rollbacks: list[dict[str, Any]] = (
            json.loads(path.read_text()) if path.exists() else []
        )

    @property
    def batches(self) -> set[int]:
        """Their places in the order."""
        return {batch for one in self.rollbacks for batch in one["batches"]}

    def add(self, step: int, batches: Sequence[int]) -> None:
        """Leaves out `batches` from now on, because of which step `step` failed."""
        self.rollbacks.append({"step": step, "batches": sorted(batches)})
        if is_main_process():
            with atomic_path(self._path) as unfinished:
                unfinished.write_text(json.dumps(self.rollbacks) + "\n")

    def first(self, step: int) -> int:
        """The batch of the step behind `step` done ones."""
        gone, batch = self.batches, 0
        if not gone:
            return step
        while step > 0 or batch in gone:
            step -= batch not in gone
            batch += 1
        return batch

    def around(
        self, batches: Callable[[int], Iterator[Any]], step: int
    ) -> Generator[tuple[int, Any], None, None]:
        """Places and batches for the steps behind `step` done ones."""
        gone, place = self.batches, self.first(step)
        for batch in batches(place):
            if place not in gone:
                yield place, batch
            place += 1


def write_postmortem(
    folder: Path,
    state: TrainState,
    error: DivergedError,
    *,
    of: str,
    rows: Callable[[int], Sequence[int]] | None,
) -> None:
    """Writes `report.json` and `state` for `replay`.

    `of` says in words which state that is, and `rows(batch)` are the positions of a
    batch's examples in the data.
    """
    with Checkpoints(folder / "state", keep=1) as checkpoints:
        if checkpoints.latest_step() is None:
            checkpoints.save(state)
    if not is_main_process():
        return
    bad = [
        {
            "step": one.step,
            "batch": one.batch,
            "rows": [] if rows is None else [int(row) for row in rows(one.batch)],
            "metrics": {
                name: _json_number(value) for name, value in one.metrics.items()
            },
        }
        for one in error.bad
    ]
    with atomic_path(folder / REPORT) as unfinished:
        report = {"why": str(error), "state": of, "bad": bad}
        unfinished.write_text(json.dumps(report, indent=1) + "\n")


def read_postmortem(folder: Path) -> dict[str, Any]:
    """The report in a folder of `postmortem/`."""
    path = folder / REPORT
    if not path.is_file():
        raise FileNotFoundError(
            f"A postmortem is a folder with a {REPORT}; got none in {folder}: name one "
            "of the folders in a run's `postmortem`."
        )
    return json.loads(path.read_text())


def replay(
    folder: Path,
    template: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]],
    batches: Callable[[int], Iterator[Any]],
    mesh: Mesh,
) -> list[FailedStep]:
    """The failed steps of a postmortem once more, with the metrics they have here.

    Each starts from the state that was kept, at its own step number, so that its random
    choices are those of the run (those of `prepare` on any number of devices).
    """
    report = read_postmortem(folder)
    with Checkpoints(folder / "state", keep=1) as checkpoints:
        state = checkpoints.restore(template)
    found = []
    for one in report["bad"]:
        before = jnp.asarray(one["step"] - 1, state.step.dtype)
        again = eqx.tree_at(lambda state: state.step, copy_arrays(state), before)
        batch = shard_batch(next(iter(batches(one["batch"]))), mesh)
        _, metrics = step(again, batch)
        values = {name: float(value) for name, value in metrics.items()}
        found.append(FailedStep(one["step"], one["batch"], values))
    return found


def _json_number(value: float) -> float | str:
    """JSON has no word for what is not finite; `float` reads ours."""
    return value if math.isfinite(value) else str(value)
