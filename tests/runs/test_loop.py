import os
import signal
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.loop import Callbacks, FaultTolerance, run_training, TERMINATED
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.state import copy_arrays, TrainState
from vtp_eqx.training.step import make_step


class Line(eqx.Module):
    """The smallest student: one slope."""

    slope: jax.Array


def slope_objective():
    def prepare(batch, key):
        return batch

    def terms(student, teacher, views, step, key):
        return {"error": (student.slope * views - 1) ** 2}, {}

    return Objective(prepare, terms)


@pytest.fixture(scope="module")
def line():
    mesh = data_mesh(2)
    student, optimizer = Line(jnp.zeros((), jnp.float32)), optax.adam(0.1)
    make = lambda: TrainState.start(
        copy_arrays(student),
        copy_arrays(student),
        FixedWeights({"error": 1.0}),
        optimizer,
        key=jax.random.key(0),
    )
    step = make_step(
        make(),
        slope_objective(),
        optimizer,
        mesh,
        momentum=lambda step: jnp.asarray(0.5, jnp.float32),
        ema_source=lambda student: student,
    )
    return mesh, make, step


def ones(first):
    while True:
        yield np.ones(2, np.float32)


def logged(folder):
    return read_log(folder / "metrics.jsonl")


def saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_a_run_logs_its_first_and_last_step_and_every_so_many(line, tmp_path):
    mesh, make, step = line
    seen = []
    state = run_training(
        make(), step, ones, num_steps=7, mesh=mesh, folder=tmp_path, log_every=3,
        progress=lambda done, num_steps, metrics: seen.append((done, num_steps)),
    )  # fmt: skip
    assert int(state.step) == 7
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 3, 6, 7]
    assert seen == [(1, 7), (3, 7), (6, 7), (7, 7)]
    assert logged(tmp_path)[0].keys() == {
        "step", "seconds", "error", "total", "gradient_norm", "skipped", "num_skipped",
    }  # fmt: skip
    # Before any step the slope is 0, and the error 1.
    assert logged(tmp_path)[0]["error"] == 1


def test_a_run_that_has_ended_does_nothing_more(line, tmp_path):
    mesh, make, step = line
    ended = run_training(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
    again = run_training(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
    assert eqx.tree_equal(again.student, ended.student)
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 2]


def test_a_run_asks_for_batches_from_where_it_stopped(line, tmp_path):
    mesh, make, step = line
    asked = []

    def batches(first):
        asked.append(first)
        return ones(first)

    for num_steps in (2, 5):
        run_training(
            make(), step, batches, num_steps=num_steps, mesh=mesh, folder=tmp_path
        )
    assert asked == [0, 2]


def test_a_run_stops_where_a_term_is_not_finite(line, tmp_path):
    mesh, make, step = line

    def broken(first):
        yield np.ones(2, np.float32)
        while True:
            yield np.array([1, np.nan], np.float32)

    # A step that is skipped may be an accident; five in a row are none.
    with pytest.raises(FloatingPointError, match=r"got error = nan.* at step 6"):
        run_training(
            make(), step, broken,
            num_steps=9, mesh=mesh, folder=tmp_path, log_every=1, save_every=1,
        )  # fmt: skip
    # The last good state is kept, and lines tell nothing that is not a number.
    lines = logged(tmp_path)
    assert [entry["num_skipped"] for entry in lines] == [0, 1, 2, 3, 4]
    assert ["error" in entry for entry in lines] == [True, *4 * [False]]
    assert saved(tmp_path) == [1]


def test_a_step_between_two_lines_of_the_log_is_looked_at_too(line, tmp_path):
    mesh, make, step = line

    def broken(first):
        for place in range(first, 100):
            yield np.full(2, np.nan if 4 <= place < 9 else 1, np.float32)

    with pytest.raises(FloatingPointError, match=r"got error = nan.* at step 9"):
        run_training(make(), step, broken, num_steps=90, mesh=mesh, folder=tmp_path)


def test_the_best_checkpoints_outlive_the_last(line, tmp_path):
    mesh, make, step = line
    run_training(
        make(), step, ones, num_steps=12, mesh=mesh, folder=tmp_path, save_every=2,
        fault_tolerance=FaultTolerance(keep=1, keep_best=1),
        callbacks=Callbacks(score=lambda values: -abs(values["step_number"] - 4.2),
                    evaluate=lambda state, done: {"step_number": done},
                    evaluate_every=1),
    )  # fmt: skip
    assert saved(tmp_path) == [4, 12]


def test_evaluations_and_monitors_are_lines_of_the_log_and_of_its_sinks(line, tmp_path):
    mesh, make, step = line
    seen = []
    run_training(
        make(), step, ones, num_steps=5, mesh=mesh, folder=tmp_path, log_every=2,
        callbacks=Callbacks(
            monitor=lambda state: {"slope": float(state.student.slope)},
            evaluate=lambda state, done: {"probe": done / 10},
            evaluate_every=3,
            sinks=[lambda done, values: seen.append((done, values))],
            cost=StepCost(images=2, flops=1e3, peak=1e12),
        ),
    )  # fmt: skip
    lines = {entry["step"]: entry for entry in logged(tmp_path)}
    assert sorted(lines) == [1, 2, 3, 4, 5]
    assert {step for step in lines if "probe" in lines[step]} == {3, 5}
    assert all("slope" in entry for entry in lines.values())
    assert lines[4]["images_per_second"] > 0
    assert "images_per_second" not in lines[1]  # it compiled
    assert [(done, values.get("probe")) for done, values in seen] == [
        (1, None), (2, None), (3, 0.3), (4, None), (5, 0.5),
    ]  # fmt: skip


def test_sigterm_saves_and_ends_and_the_next_run_continues(line, tmp_path):
    mesh, make, step = line
    before = signal.getsignal(signal.SIGTERM)

    def ending(first):
        for place in range(first, 100):
            if place == 3 and first == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield np.ones(2, np.float32)

    with pytest.raises(SystemExit) as ended:
        run_training(make(), step, ending, num_steps=9, mesh=mesh, folder=tmp_path)
    assert ended.value.code == TERMINATED
    assert signal.getsignal(signal.SIGTERM) == before
    assert saved(tmp_path) == [4]
    resumed = run_training(
        make(), step, ending, num_steps=9, mesh=mesh, folder=tmp_path
    )
    whole = run_training(
        make(), step, ones, num_steps=9, mesh=mesh, folder=tmp_path / "whole"
    )
    assert eqx.tree_equal(resumed.student, whole.student)


def test_a_run_outside_the_main_thread_leaves_signals_alone(line, tmp_path):
    mesh, make, step = line
    ended = []

    def work():
        state = run_training(
            make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path
        )
        ended.append(int(state.step))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [2]


def test_a_folder_in_use_is_refused(line, tmp_path):
    mesh, make, step = line

    def intruded(first):
        with pytest.raises(RuntimeError, match="one writer at a time"):
            run_training(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
        return ones(first)

    run_training(make(), step, intruded, num_steps=2, mesh=mesh, folder=tmp_path)
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 2]


def test_a_stalled_run_says_where_it_stands(line, tmp_path, capsys):
    mesh, make, step = line

    def slow(first):
        for place in range(first, 100):
            if place == 2:
                time.sleep(1.5)
            yield np.ones(2, np.float32)

    run_training(
        make(), step, slow, num_steps=4, mesh=mesh, folder=tmp_path,
        fault_tolerance=FaultTolerance(stall_seconds=0.5),
    )  # fmt: skip
    assert "No step ended for" in capsys.readouterr().err
    assert "in slow" in (tmp_path / "stalls.txt").read_text()


def test_a_run_outlives_who_watches_it(line, tmp_path, capsys):
    mesh, make, step = line
    there = []

    def watching(done, num_steps, values):
        there.append(done)
        raise BrokenPipeError("nobody reads")

    run_training(
        make(), step, ones, num_steps=4, mesh=mesh, folder=tmp_path, log_every=1,
        save_every=2, progress=watching,
    )  # fmt: skip
    assert there == [1]
    assert "dropped from step 1 on: BrokenPipeError" in capsys.readouterr().err
    assert saved(tmp_path) == [2, 4]


def test_a_checkpoint_that_is_due_comes_before_who_watches(line, tmp_path):
    mesh, make, step = line

    def watching(done, num_steps, values):
        assert logged(tmp_path)[-1]["step"] == done
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(
            make(), step, ones, num_steps=4, mesh=mesh, folder=tmp_path, log_every=1,
            save_every=2, progress=watching,
        )  # fmt: skip
    assert saved(tmp_path) == [2]


@pytest.mark.parametrize("part", ["monitor", "evaluate"])
def test_an_error_while_looking_loses_no_step(part, line, tmp_path):
    mesh, make, step = line

    def looking(state, done=None):
        if int(state.step) == 3:
            raise MemoryError("too many images")
        return {"seen": 1.0}

    go = lambda **parts: run_training(
        make(), step, ones, num_steps=5, mesh=mesh, folder=tmp_path, log_every=1,
        callbacks=Callbacks(
            evaluate_every=1, score=lambda values: values["seen"], **parts
        ),
        fault_tolerance=FaultTolerance(keep_best=1),
    )  # fmt: skip
    with pytest.raises(MemoryError, match="too many images"):
        go(**{part: looking})
    assert saved(tmp_path) == [3]
    go(**{part: lambda state, done=None: {"seen": 2.0}})
    lines = logged(tmp_path)
    assert [entry["step"] for entry in lines] == [1, 2, 3, 4, 5]
    assert [entry.get("seen") for entry in lines] == [1, 1, None, 2, 2]


@pytest.mark.parametrize("name", ["log_every", "save_every", "evaluate_every"])
def test_every_no_steps_is_refused_before_the_first(name, line, tmp_path):
    mesh, make, step = line
    zero = (
        {name: 0}
        if name != "evaluate_every"
        else {"callbacks": Callbacks(evaluate_every=0)}
    )
    with pytest.raises(ValueError, match=rf"`{name}` \(0\) must be 1 or more steps"):
        run_training(
            make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path, **zero
        )
    assert not list(tmp_path.iterdir())


def test_room_is_asked_for_all_that_a_run_may_write(line, tmp_path, monkeypatch):
    mesh, make, step = line
    asked = []
    monkeypatch.setattr(
        "vtp_eqx.runs.loop.check_disk_space",
        lambda folder, needed: asked.append(needed),
    )
    go = lambda **fault_tolerance: run_training(
        make(), step, ones, num_steps=1, mesh=mesh, folder=tmp_path,
        fault_tolerance=FaultTolerance(keep=2, **fault_tolerance),
    )  # fmt: skip
    go()
    go(max_rollbacks=3)  # one checkpoint is there now
    for name in ("step-2-batch-1", "step-3-batch-4"):
        (tmp_path / "postmortem" / name).mkdir(parents=True)
    go(max_rollbacks=3)
    one = asked[0] / 3
    assert asked == [3 * one, (2 + 4) * one, (2 + 2) * one]
