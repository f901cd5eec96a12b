"""The training loop: steps from wherever a run stopped to its end.

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
from vtp_eqx.mesh import on_mesh, shard_batch
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.corruption import check_recompute, checked_step, CORRUPTION
from vtp_eqx.runs.log import Log, Sink, warn
from vtp_eqx.runs.multihost import is_main_process, raise_on_all
from vtp_eqx.runs.recovery import (
    DivergedError,
    FailureCounter,
    SkippedBatches,
    write_postmortem,
)
from vtp_eqx.runs.run_dir import (
    check_config_unchanged,
    check_disk_space,
    CHECKPOINTS,
    disk_errors,
    lock_folder,
    write_config,
)
from vtp_eqx.runs.throughput import StepCost, Throughput
from vtp_eqx.runs.watchdog import Watchdog
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import Step


Progress = Callable[[int, int, dict[str, float]], None]
SKIPPED_BATCHES = "left_out.json"  # the name in runs that were begun before
TERMINATED = 143  # exit status of a run that SIGTERM ended, its state saved: 128 + 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultTolerance:
    """Which checkpoints are kept, and when a run rolls back or gives up.

    All values are ours.
    """

    keep: int = 2  # last checkpoints
    keep_best: int = 0  # beside them, those of the largest score
    max_rollbacks: int = 0  # to the last checkpoint, over the whole run; then it stops
    max_consecutive: int = 5  # skipped steps after which to roll back
    stall_seconds: float = 1800.0  # without a step, also while compiling or evaluating
    exit_on_stall: bool = False  # with the status `watchdog.STALLED`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callbacks:
    """Optional functions that are called during a run.

    - `monitor(state)` gives further numbers for every line of the log.
    - `evaluate(state, step)` gives numbers every `evaluate_every` steps, after
      `evaluate_steps`, and at the end.
    - `score(numbers)` of a line ranks checkpoints: the largest is the best.
    - `sinks` get every line of the log too.
    - `rows(batch)` are the examples of a batch, named when it made a step fail.

    All processes call the first two, which gather what they need of a sharded state
    (`mesh.gather_to_host`) before anything in them can fail.
    """

    monitor: Callable[[TrainState], dict[str, float]] | None = None
    evaluate: Callable[[TrainState, int], dict[str, float]] | None = None
    evaluate_every: int = 1000
    evaluate_steps: Collection[int] = ()
    score: Callable[[Mapping[str, float]], float] | None = None
    sinks: Sequence[Sink] = ()
    cost: StepCost | None = None
    rows: Callable[[int], Sequence[int]] | None = None


def run_training(
    state: TrainState,
    step: Step,
    batches: Callable[[int], Iterator[Any]],
    *,
    num_steps: int,
    mesh: Mesh,
    folder: Path,
    log_every: int = 50,
    save_every: int = 1000,
    recompute_every: int = 0,
    progress: Progress = lambda step, num_steps, metrics: None,
    fault_tolerance: FaultTolerance = FaultTolerance(),
    callbacks: Callbacks = Callbacks(),
    holds_folder: bool = False,
    config: Any = None,
) -> TrainState:
    """The state after `num_steps` steps. Running it again continues where it stopped.

    - `batches(first)` yields batches from number `first` on.
    - `folder` receives `metrics.jsonl`, `checkpoints/` and, where a step failed,
      `postmortem/`; a second process is refused.
    - `config` is written to the folder, and compared with that of a run that continues.
    - `holds_folder`: the caller has locked `folder` and written its config.
    - `recompute_every`: of so many steps one is computed twice, and compared; 0: none.
    - `progress(done, num_steps, metrics)` is called whenever a line is logged.

    The metrics of every step are checked, one step late. Where one is not finite, or
    too many steps in a row were skipped (metric `skipped`), the run rolls back to the
    last checkpoint and skips those batches, `fault_tolerance.max_rollbacks` times; then
    it raises `FloatingPointError`. No checkpoint is written after a failed step.

    SIGTERM saves the state and raises `SystemExit(TERMINATED)`; a second one ends the
    process at once. Raises `CorruptionError` where a step had two results, which leaves
    checkpoints as they are (see `checked_step`); `FolderInUseError` where another
    process writes the folder, `ValueError` where the run in it was begun with another
    config, and `OSError` where there is no space or no right to write.
    """
    for name, interval in (
        ("log_every", log_every),
        ("save_every", save_every),
        ("evaluate_every", callbacks.evaluate_every),
    ):
        require(
            interval >= 1, f"`{name}` ({interval}) must be 1 or more steps: raise it."
        )
    check_recompute(recompute_every, mesh.devices.flat[0].platform)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(disk_errors(folder))
        state = on_mesh(state, mesh)
        with raise_on_all():
            if is_main_process():
                needed = _disk_space_needed(
                    state, folder, fault_tolerance, recompute_every > 0
                )
                check_disk_space(folder, needed)
                if not holds_folder:
                    enter(lock_folder(folder))
                    if config is not None:
                        check_config_unchanged(folder, config)
                        write_config(folder, config)
        checkpoints = Checkpoints(
            folder / CHECKPOINTS,
            keep=fault_tolerance.keep,
            keep_best=fault_tolerance.keep_best,
        )
        run = _Run(
            step=step, batches=batches, num_steps=num_steps, mesh=mesh, folder=folder,
            log_every=log_every, save_every=save_every,
            recompute_every=recompute_every, progress=progress,
            fault_tolerance=fault_tolerance, callbacks=callbacks,
            checkpoints=enter(checkpoints),
            watchdog=enter(Watchdog(
                folder / "stalls.txt", fault_tolerance.stall_seconds,
                ends=fault_tolerance.exit_on_stall,
            )),
            is_stop_requested=enter(_sigterm_requested()),
        )  # fmt: skip
        return run.run(state)


@dataclasses.dataclass(kw_only=True)
class _Run:
    """The state of a run while it lasts."""

    step: Step
    batches: Callable[[int], Iterator[Any]]
    num_steps: int
    mesh: Mesh
    folder: Path
    log_every: int
    save_every: int
    recompute_every: int
    progress: Progress
    fault_tolerance: FaultTolerance
    callbacks: Callbacks
    checkpoints: Checkpoints
    watchdog: Watchdog
    is_stop_requested: Callable[[int], bool]

    def __post_init__(self):
        self.skipped_batches = SkippedBatches(self.folder / SKIPPED_BATCHES)
        self.throughput = Throughput(self.callbacks.cost)

    def run(self, state: TrainState) -> TrainState:
        shape = lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        )
        arrays, static = eqx.partition(state, eqx.is_array)
        template = eqx.combine(jax.tree.map(shape, arrays), static)
        if self.checkpoints.latest_step() is not None:
            state = self.checkpoints.restore(template)
        elif self.fault_tolerance.max_rollbacks > 0:
            self.checkpoints.save(state)  # the first to roll back to
        path, sinks = None, []
        if is_main_process():
            path = self.folder / "metrics.jsonl"
            progress = lambda done, values: self.progress(done, self.num_steps, values)
            sinks = [*self.callbacks.sinks, progress]
        self.log = Log(path, int(state.step), sinks)
        while True:
            self.state = state
            self.failures = FailureCounter(self.fault_tolerance.max_consecutive)
            first = int(state.step)
            remaining = self.skipped_batches.remaining(self.batches, first)
            try:
                with contextlib.closing(remaining) as numbered:
                    self.steps(numbered, first)
                return self.state
            except DivergedError as error:
                state = self.roll_back(error, template)

    def steps(self, numbered: Iterator[tuple[int, Any]], first: int) -> None:
        """All steps after `first`; `DivergedError` where they fail."""
        unchecked = None
        for done in range(first + 1, self.num_steps + 1):
            with self.throughput.waiting_for_data():
                number, batch = next(numbered)
            batch = shard_batch(batch, self.mesh)
            if self.recompute_every and done % self.recompute_every == 0:
                with self.watchdog.paused():
                    self.state, metrics = checked_step(
                        self.step, self.state, batch, mesh=self.mesh,
                        folder=self.folder / CORRUPTION, number=done,
                        batch_number=number, rows=self.callbacks.rows,
                    )  # fmt: skip
            else:
                self.state, metrics = self.step(self.state, batch)
            if unchecked is not None:  # this step computes meanwhile
                self.check(*unchecked)
            self.watchdog.beat()
            unchecked = done, number, metrics
            stops, is_last = self.is_stop_requested(done), done == self.num_steps
            saves = done % self.save_every == 0 or is_last or stops
            evaluates = self.callbacks.evaluate is not None and (
                done % self.callbacks.evaluate_every == 0
                or done in self.callbacks.evaluate_steps
                or is_last
            )
            is_due = done % self.log_every == 0 or done == first + 1
            logs = is_due or saves or evaluates
            if logs or self.failures.is_next_critical:
                self.check(*unchecked)
                unchecked = None
            if logs:
                self.report(
                    done, metrics, evaluates=evaluates, saves=saves,
                    ends=is_last or stops,
                )  # fmt: skip
            if stops:
                self.checkpoints.wait()
                raise SystemExit(TERMINATED)

    def check(self, done: int, batch: int, metrics: Mapping[str, Array]) -> None:
        """Counts a step if it failed; `DivergedError` where too many did."""
        values = jax.device_get(dict(metrics))
        self.failures.add(done, batch, {name: float(values[name]) for name in values})

    def report(
        self, done: int, metrics: Mapping[str, Array], *, evaluates: bool, saves: bool,
        ends: bool,
    ) -> None:  # fmt: skip
        """Logs metrics, saves a checkpoint if due, then calls the sinks."""
        values = {name: float(value) for name, value in metrics.items()}
        if self.skipped_batches.rollbacks:
            values["rollbacks"] = len(self.skipped_batches.rollbacks)
        # A skipped step has terms that no JSON can hold.
        values = {name: value for name, value in values.items() if isfinite(value)}
        values |= self.throughput.read(done, self.num_steps)
        may_save = not self.failures.failed or ends
        with self.watchdog.paused(), self.throughput.paused():
            try:
                values |= self.evaluate(done, evaluates)
            except Exception:
                # An evaluation that fails must not cost what was learned.
                self.log.write(done, values)
                if may_save:
                    self.checkpoints.save(self.state)
                raise
            self.log.write(done, values)
            if saves and may_save:
                self.save(values)
            self.log.call_sinks(done, values)

    def evaluate(self, done: int, evaluates: bool) -> dict[str, float]:
        """What the callbacks measure."""
        values = {}
        if self.callbacks.monitor is not None:
            with raise_on_all():
                values |= self.callbacks.monitor(self.state)
        if evaluates:
            assert self.callbacks.evaluate is not None
            with raise_on_all():
                values |= self.callbacks.evaluate(self.state, done)
        return values

    def save(self, values: Mapping[str, float]) -> None:
        score = self.callbacks.score
        self.checkpoints.save(self.state, None if score is None else score(values))

    def roll_back(self, error: DivergedError, template: TrainState) -> TrainState:
        """The last good state, from which the batches that failed are skipped."""
        count = len(self.skipped_batches.rollbacks)
        limit = self.fault_tolerance.max_rollbacks
        if limit == 0:
            raise error
        last = error.failed[-1]
        name = f"step-{last.step}-batch-{last.batch}"
        postmortem = self.folder / "postmortem" / name
        with self.watchdog.paused():
            failed, description = self.state, "before the first of these steps"
            self.checkpoints.wait()
            state = self.checkpoints.restore(template)
            if error.is_broken:
                failed = state
                description = f"of the last checkpoint, after step {state.step}"
            write_postmortem(
                postmortem, failed, error, description=description,
                rows=self.callbacks.rows,
            )  # fmt: skip
        if count >= limit:
            raise FloatingPointError(
                f"`max_rollbacks` ({limit}) would be exceeded: {error} The batches are "
                f"in {postmortem}."
            ) from error
        self.skipped_batches.add(last.step, [step.batch for step in error.failed])
        self.log.rewind(int(state.step))
        self.throughput.start(int(state.step))
        warn(
            f"{error} Rolling back to step {int(state.step)} and skipping "
            f"{len(error.failed)} batches ({count + 1} of {limit} rollbacks): "
            f"{postmortem}."
        )
        return state


@contextlib.contextmanager
def _sigterm_requested() -> Iterator[Callable[[int], bool]]:
    """Whether to stop after a step; the answer is the same in all processes.

    With several processes JAX passes SIGTERM on by itself; with one it is handled
    here, where Python allows it (in the main thread).
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return

    def note(number: int, frame: Any) -> None:
        requested.set()
        restore()

    before = signal.signal(signal.SIGTERM, note)
    # One that was not set by Python cannot be set again.
    restore = lambda: signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    try:
        yield lambda step: requested.is_set()
    finally:
        restore()


def _disk_space_needed(
    state: TrainState, folder: Path, fault_tolerance: FaultTolerance, recomputes: bool
) -> float:
    """Bytes of checkpoints still to be written, one to spare, and of failed steps."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array)))
    count = lambda name: len([*(folder / name).glob("*")])
    num_kept = fault_tolerance.keep + fault_tolerance.keep_best
    checkpoints = max(1, num_kept + 1 - count(CHECKPOINTS))
    # Each rollback leaves a state, and so does the one too many that ends the run.
    limit = fault_tolerance.max_rollbacks
    postmortems = max(0, limit + 1 - count("postmortem")) if limit > 0 else 0
    return size * (checkpoints + postmortems + (2 if recomputes else 0))
