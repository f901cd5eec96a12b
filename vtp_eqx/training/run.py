"""A run: steps from wherever it stopped to its end, through whatever happens.

The same call again continues it: bit for bit on the same devices, also after
`kill -9` at any moment, because what a step reads is a function of its number.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from math import isfinite
from pathlib import Path
import signal
import threading
from typing import Any

import equinox as eqx
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array

from vtp_eqx.config import require
from vtp_eqx.mesh import on_mesh, split
from vtp_eqx.training.checkpoint import Checkpoints
from vtp_eqx.training.folder import (
    check_config_unchanged,
    check_room,
    locked,
    said_when_full,
    write_config,
)
from vtp_eqx.training.log import Log, Sink, warn
from vtp_eqx.training.pace import Pace, StepCost
from vtp_eqx.training.processes import all_or_none, leads
from vtp_eqx.training.rescue import DerailedError, LeftOut, Tally, write_postmortem
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.watchdog import StallConfig, Watchdog


Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]
Progress = Callable[[int, int, dict[str, float]], None]
TERMINATED = 143  # exit status of a run that SIGTERM ended, its state saved: 128 + 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endurance:
    """What a run keeps and how much it takes. All values are ours."""

    keep: int = 2  # last checkpoints
    keep_best: int = 0  # beside them, those of the largest score
    rollbacks: int = 0  # to the last checkpoint, over the whole run; then it stops
    in_a_row: int = 5  # skipped steps after which to go back
    stall: StallConfig = dataclasses.field(default_factory=StallConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """What else is looked at; each part is optional.

    - `monitor(state)` gives further numbers for every line of the log.
    - `evaluate(state, step)` gives numbers every `evaluate_every` steps, after
      `evaluate_steps`, and at the end.
    - `score(numbers)` of a line says which checkpoints are best: the largest.
    - `sinks` get every line of the log too.
    - `rows(batch)` are the examples of a batch, named when it made a step fail.

    All processes call the first two, which take what they need of a split state by
    `mesh.here` before anything in them can fail.
    """

    monitor: Callable[[TrainState], dict[str, float]] | None = None
    evaluate: Callable[[TrainState, int], dict[str, float]] | None = None
    evaluate_every: int = 1000
    evaluate_steps: Collection[int] = ()
    score: Callable[[Mapping[str, float]], float] | None = None
    sinks: Sequence[Sink] = ()
    cost: StepCost | None = None
    rows: Callable[[int], Sequence[int]] | None = None


def run(
    state: TrainState,
    step: Step,
    batches: Callable[[int], Iterator[Any]],
    *,
    num_steps: int,
    mesh: Mesh,
    folder: Path,
    log_every: int = 50,
    save_every: int = 1000,
    progress: Progress = lambda step, num_steps, metrics: None,
    endurance: Endurance = Endurance(),
    watch: Watch = Watch(),
    holds_folder: bool = False,
    config: Any = None,
) -> TrainState:
    """The state after `num_steps` steps. Running it again continues where it stopped.

    - `batches(first)` yields the batches of the order from place `first` on.
    - `folder` receives `metrics.jsonl`, `checkpoints/` and, where a step failed,
      `postmortem/`; a second process is refused. `holds_folder` says that the caller
      has it `locked` already.
    - `config` is written to the folder, and compared with that of a run which goes on.
    - `progress(done, num_steps, metrics)` is called whenever a line is logged.

    Every step is looked at, one step behind. Where a metric is not finite, or too many
    steps in a row were skipped (metric `skipped`), the run goes back to the last
    checkpoint and around those batches, `endurance.rollbacks` times; then it raises
    `FloatingPointError`. No checkpoint is written behind a failed step.

    SIGTERM saves the state and raises `SystemExit(TERMINATED)`; a second one ends the
    process at once. Raises `FolderInUseError` where another process writes the folder,
    `ValueError` where the run in it was begun with another config, and `OSError` where
    there is no room or no right to write.
    """
    for name, every in (
        ("log_every", log_every),
        ("save_every", save_every),
        ("evaluate_every", watch.evaluate_every),
    ):
        require(every >= 1, f"`{name}` must be 1 or more steps; got {every}: raise it.")
    run = _Run(step, batches, num_steps, mesh, folder, log_every, save_every, progress,
               endurance, watch)  # fmt: skip
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(said_when_full(folder))
        state = on_mesh(state, mesh)
        with all_or_none():
            if leads():
                check_room(folder, _bytes_to_write(state, folder, endurance))
                if not holds_folder:
                    enter(locked(folder))
                if config is not None:
                    check_config_unchanged(folder, config)
                    write_config(folder, config)
        saved = folder / "checkpoints"
        run.checkpoints = enter(
            Checkpoints(saved, keep=endurance.keep, keep_best=endurance.keep_best)
        )
        run.watchdog = enter(Watchdog(folder / "stalls.txt", endurance.stall))
        run.asked = enter(_termination())
        return run.through(state)


class _Run:
    """The parts of a run while it lasts."""

    checkpoints: Checkpoints
    watchdog: Watchdog
    asked: Callable[[int], bool]
    log: Log

    def __init__(
        self, step, batches, num_steps, mesh, folder, log_every, save_every, progress,
        endurance, watch,
    ):  # fmt: skip
        self.step, self.batches, self.num_steps, self.mesh = (
            step, batches, num_steps, mesh,
        )  # fmt: skip
        self.folder, self.log_every, self.save_every = folder, log_every, save_every
        self.progress, self.endurance, self.watch = progress, endurance, watch
        self.left_out = LeftOut(folder / "left_out.json")
        self.pace = Pace(watch.cost)

    def through(self, state: TrainState) -> TrainState:
        template = jax.tree.map(
            lambda leaf: (
                jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
                if eqx.is_array(leaf)
                else leaf
            ),
            state,
        )
        if self.checkpoints.latest_step() is not None:
            state = self.checkpoints.restore(template)
        elif self.endurance.rollbacks > 0:
            self.checkpoints.save(state)  # something to go back to
        path = self.folder / "metrics.jsonl" if leads() else None
        sinks = [*self.watch.sinks, self.progress_sink] if leads() else []
        self.log = Log(path, int(state.step), sinks)
        while True:
            self.state = state
            self.tally = Tally(self.endurance.in_a_row)
            try:
                self.advance()
                return self.state
            except DerailedError as error:
                state = self.go_back(error, template)

    def advance(self) -> None:
        """All steps that are left; `DerailedError` where they lead nowhere."""
        first = int(self.state.step)
        with contextlib.closing(self.left_out.around(self.batches, first)) as source:
            self.steps(source, first)

    def steps(self, source: Iterator[tuple[int, Any]], first: int) -> None:
        unseen = None
        for done in range(first + 1, self.num_steps + 1):
            with self.pace.waiting():
                place, batch = next(source)
            self.state, metrics = self.step(self.state, split(batch, self.mesh))
            if unseen is not None:  # this step computes meanwhile
                self.look(*unseen)
            self.watchdog.beat()
            unseen = done, place, metrics
            asked, is_last = self.asked(done), done == self.num_steps
            saves = done % self.save_every == 0 or is_last or asked
            tests = self.watch.evaluate is not None and (
                done % self.watch.evaluate_every == 0
                or done in self.watch.evaluate_steps
                or is_last
            )
            logs = done % self.log_every == 0 or done == first + 1 or saves or tests
            if logs or self.tally.at_risk:
                self.look(*unseen)
                unseen = None
            if logs:
                self.report(
                    done, metrics, tests=tests, saves=saves, ends=is_last or asked
                )
            if asked:
                self.checkpoints.wait()
                raise SystemExit(TERMINATED)

    def look(self, done: int, place: int, metrics: Mapping[str, Array]) -> None:
        values = jax.device_get(dict(metrics))
        self.tally.look(done, place, {name: float(values[name]) for name in values})

    def report(
        self, done: int, metrics: Mapping[str, Array], *, tests: bool, saves: bool,
        ends: bool,
    ) -> None:  # fmt: skip
        """A line of the log, a checkpoint where one is due, and then who watches."""
        values = {name: float(value) for name, value in metrics.items()}
        if self.left_out.rollbacks:
            values["rollbacks"] = len(self.left_out.rollbacks)
        # A skipped step has terms that no JSON can hold.
        values = {name: value for name, value in values.items() if isfinite(value)}
        values |= self.pace.read(done, self.num_steps)
        may_save = not self.tally.row or ends
        with self.watchdog.resting(), self.pace.resting():
            try:
                values |= self.looked_at(done, tests)
            except Exception:
                # What was learned outlives what could not look at it.
                self.log.write(done, values)
                if may_save:
                    self.checkpoints.save(self.state)
                raise
            self.log.write(done, values)
            if saves and may_save:
                self.save(values)
            self.log.tell(done, values)

    def looked_at(self, done: int, tests: bool) -> dict[str, float]:
        values = {}
        if self.watch.monitor is not None:
            with all_or_none():
                values |= self.watch.monitor(self.state)
        if tests:
            assert self.watch.evaluate is not None
            with all_or_none():
                values |= self.watch.evaluate(self.state, done)
        return values

    def progress_sink(self, done: int, values: Mapping[str, float]) -> None:
        self.progress(done, self.num_steps, dict(values))

    def save(self, values: Mapping[str, float]) -> None:
        score = None
        if self.watch.score is not None:
            score = self.watch.score(values)
        self.checkpoints.save(self.state, score)

    def go_back(self, error: DerailedError, template: TrainState) -> TrainState:
        """The last good state, behind which the batches that failed are left out."""
        count = len(self.left_out.rollbacks)
        limit = self.endurance.rollbacks
        if limit == 0:
            raise error
        with self.watchdog.resting():
            failed, of = self.state, "before the first of these steps"
            self.checkpoints.wait()
            state = self.checkpoints.restore(template)
            if error.broken:
                failed, of = state, f"of the last checkpoint, behind step {state.step}"
            last = error.bad[-1]
            place = self.folder / "postmortem" / f"step-{last.step}-batch-{last.batch}"
            write_postmortem(place, failed, error, of=of, rows=self.watch.rows)
        if count >= limit:
            raise FloatingPointError(
                f"A run may go back {limit} times (`rollbacks`); got one more reason: "
                f"{error} The batches are in {place}."
            ) from error
        self.left_out.add(last.step, [one.batch for one in error.bad])
        self.log.rewind(int(state.step))
        self.pace.start(int(state.step))
        warn(
            f"{error} Going back to step {int(state.step)} and around "
            f"{len(error.bad)} batches ({count + 1} of {limit} times): {place}."
        )
        return state


@contextlib.contextmanager
def _termination() -> Iterator[Callable[[int], bool]]:
    """Whether to end behind a step: all processes are told the same.

    With several processes JAX passes the wish on by itself; with one it is ours to
    notice, where Python lets us (in the main thread).
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def _bytes_to_write(state: TrainState, folder: Path, endurance: Endurance) -> float:
    """Room that checkpoints still take, all that are kept and one more, and rescues."""
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    there = lambda name: len([*(folder / name).glob("*")])
    kept = max(1, endurance.keep + endurance.keep_best + 1 - there("checkpoints"))
    # Each rollback leaves a state, and so does the one too many that ends the run.
    limit = endurance.rollbacks
    left = max(0, limit + 1 - there("postmortem")) if limit > 0 else 0
    return one * (kept + left)
