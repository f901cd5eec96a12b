import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.training.run import run
from vtp_eqx.training.state import copied, TrainState
from vtp_eqx.training.step import make_step, Objective


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
        copied(student),
        copied(student),
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
        followed=lambda student: student,
    )
    return mesh, make, step


def ones(first):
    while True:
        yield np.ones(2, np.float32)


def logged(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_logs_its_first_and_last_step_and_every_so_many(line, tmp_path):
    mesh, make, step = line
    seen = []
    state = run(
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
    ended = run(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
    again = run(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
    assert eqx.tree_equal(again.student, ended.student)
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 2]


def test_a_run_asks_for_batches_from_where_it_stopped(line, tmp_path):
    mesh, make, step = line
    asked = []

    def batches(first):
        asked.append(first)
        return ones(first)

    for num_steps in (2, 5):
        run(make(), step, batches, num_steps=num_steps, mesh=mesh, folder=tmp_path)
    assert asked == [0, 2]


def test_a_line_cut_short_is_dropped(line, tmp_path):
    mesh, make, step = line
    run(make(), step, ones, num_steps=2, mesh=mesh, folder=tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "err')
    run(make(), step, ones, num_steps=3, mesh=mesh, folder=tmp_path)
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 2, 3]


def test_a_run_stops_where_a_term_is_not_finite(line, tmp_path):
    mesh, make, step = line

    def broken(first):
        yield np.ones(2, np.float32)
        while True:
            yield np.array([1, np.nan], np.float32)

    with pytest.raises(FloatingPointError, match=r"got error = nan.* at step 2"):
        run(
            make(), step, broken,
            num_steps=9, mesh=mesh, folder=tmp_path, log_every=1, save_every=1,
        )  # fmt: skip
    # The last state that was looked at is kept, and no line tells of the broken one.
    assert [entry["step"] for entry in logged(tmp_path)] == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
