import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh, replicate
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.loop import Callbacks, FaultTolerance, run_training
from vtp_eqx.runs.recovery import (
    DivergedError,
    FailureCounter,
    read_postmortem,
    replay,
    SkippedBatches,
)
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.state import TrainState


class Sum(eqx.Module):
    """A student that remembers the sum of what it has seen."""

    seen: jax.Array


OPTIMIZER = optax.sgd(1.0)
MESH = data_mesh(1)


def start():
    return TrainState.start(
        Sum(jnp.zeros((), jnp.float32)), None, FixedWeights({"error": 1.0}), OPTIMIZER,
        key=jax.random.key(0),
    )  # fmt: skip


@jax.jit
def _advance(arrays, batch, skips):
    seen = jnp.sum(batch)
    good = jnp.isfinite(seen)
    new = jnp.where(good | ~skips, arrays.student.seen + seen, arrays.student.seen)
    skipped = (skips & ~good).astype(jnp.int32)
    count = arrays.num_skipped + skipped
    state = eqx.tree_at(
        lambda state: (state.step, state.student.seen, state.num_skipped),
        arrays, (arrays.step + 1, new, count),
    )  # fmt: skip
    metrics = {"error": new + 0 * seen, "skipped": skipped, "num_skipped": count}
    return state, metrics


def skipping(state, batch):
    """A step that leaves the state alone where its batch is not finite."""
    return _advance(state, batch, jnp.asarray(True))


def breaking(state, batch):
    """A step that does not, and has no metric for it."""
    state, metrics = _advance(state, batch, jnp.asarray(False))
    return state, {"error": metrics["error"]}


def batches_with(bad):
    """Batch `i` holds `i`, or nothing of use."""

    def batches(first):
        for place in range(first, 1000):
            yield np.full(1, np.nan if place in bad else place, np.float32)

    return batches


def go(folder, bad, step=skipping, num_steps=10, **fault_tolerance):
    return run_training(
        start(), step, batches_with(bad), num_steps=num_steps, mesh=MESH,
        folder=folder, log_every=1, save_every=2,
        fault_tolerance=FaultTolerance(
            **{"max_rollbacks": 2, "max_consecutive": 3, **fault_tolerance}
        ),
        callbacks=Callbacks(rows=lambda batch: [10 * batch, 10 * batch + 1]),
    )  # fmt: skip


def test_single_skipped_steps_are_counted_and_no_more(tmp_path):
    state = go(tmp_path, {1, 4, 5})
    assert float(state.student.seen) == sum(set(range(10)) - {1, 4, 5})
    assert read_log(tmp_path / "metrics.jsonl")[-1]["num_skipped"] == 3
    assert not (tmp_path / "postmortem").exists()


def test_the_count_goes_on_in_a_resumed_run(tmp_path):
    go(tmp_path, {1, 4}, num_steps=6)
    go(tmp_path, {1, 4, 7}, num_steps=10)
    assert read_log(tmp_path / "metrics.jsonl")[-1]["num_skipped"] == 3


def test_consecutive_failures_roll_back_and_skip_their_batches(tmp_path):
    state = go(tmp_path, {5, 6, 7})
    # Ten steps, of batches 0 to 4 and 8 to 12.
    assert float(state.student.seen) == sum(range(5)) + sum(range(8, 13))
    lines = read_log(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert lines[-1]["rollbacks"] == 1
    assert SkippedBatches(tmp_path / "left_out.json").batches == {5, 6, 7}


def test_a_broken_state_goes_back_at_once(tmp_path):
    state = go(tmp_path, {5}, breaking)
    assert float(state.student.seen) == sum(range(11)) - 5
    (place,) = (tmp_path / "postmortem").iterdir()
    assert "of the last checkpoint, after step 4" in read_postmortem(place)["state"]


def test_the_pace_behind_a_rollback_is_that_of_steps_done_again(tmp_path):
    run_training(
        start(), breaking, batches_with({7}), num_steps=12, mesh=MESH, folder=tmp_path,
        log_every=3, save_every=4, fault_tolerance=FaultTolerance(max_rollbacks=1),
        callbacks=Callbacks(cost=StepCost(images=1)),
    )  # fmt: skip
    lines = read_log(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 4, 5, 6, 8, 9, 12]
    assert all(line["images_per_second"] > 0 for line in lines[1:])


def test_a_run_that_failed_at_its_first_step_starts_again(tmp_path):
    state = go(tmp_path, {0}, breaking, num_steps=3)
    assert float(state.student.seen) == 1 + 2 + 3


def test_a_resumed_run_goes_around_the_same_batches(tmp_path):
    go(tmp_path, {3}, breaking, num_steps=6)
    # The batch is whole now, but the order of a run is not changed behind its back.
    resumed = go(tmp_path, set(), breaking)
    whole = go(tmp_path / "whole", {3}, breaking)
    assert float(resumed.student.seen) == float(whole.student.seen)


def test_too_many_rollbacks_stop_the_run_with_a_sentence(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"`max_rollbacks` \(2\) would be exceeded: Every"
    ):
        go(tmp_path, {3, 5, 7}, breaking)
    assert len(list((tmp_path / "postmortem").iterdir())) == 3


def test_a_run_without_rollbacks_stops_at_once(tmp_path):
    with pytest.raises(FloatingPointError, match=r"error = nan"):
        go(tmp_path, {3, 4, 5}, max_rollbacks=0)
    assert not (tmp_path / "postmortem").exists()


def test_no_checkpoint_is_written_within_a_row_of_failures(tmp_path):
    go(tmp_path, {3, 4, 5, 6}, max_consecutive=9, num_steps=7)
    names = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {2, 7}  # the last step is saved: its state is the one of step 3


def test_a_postmortem_names_the_rows_and_is_replayed(tmp_path):
    bad = {4, 5, 6}
    go(tmp_path, bad)
    (place,) = (tmp_path / "postmortem").iterdir()
    report = read_postmortem(place)
    assert [one["batch"] for one in report["bad"]] == [4, 5, 6]
    assert [one["step"] for one in report["bad"]] == [5, 6, 7]
    assert report["bad"][1]["rows"] == [50, 51]
    assert report["bad"][0]["metrics"] == {
        "error": "nan", "skipped": 1.0, "num_skipped": 1.0,
    }  # fmt: skip
    found = replay(place, start(), skipping, batches_with(bad), MESH)
    assert [one.step for one in found] == [5, 6, 7]
    assert all(np.isnan(one.metrics["error"]) for one in found)
    # From the state before the first of them, a sound batch would have been added.
    sound = replay(place, start(), skipping, batches_with(set()), MESH)
    assert [one.metrics["error"] for one in sound] == [6 + 4, 6 + 5, 6 + 6]


def test_a_folder_that_is_no_postmortem_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no report.json.*: name one of the"
    ):
        replay(tmp_path, replicate(start(), MESH), skipping, batches_with(set()), MESH)


@pytest.mark.parametrize(
    ("skipped", "step", "first"),
    [([], 7, 7), ([0], 0, 1), ([2, 3], 2, 4), ([2, 3], 1, 1), ([2, 5], 4, 6)],
)
def test_steps_read_the_batches_that_are_left(skipped, step, first, tmp_path):
    path = tmp_path / "left_out.json"
    path.write_text(json.dumps([{"step": 9, "batches": skipped}]))
    assert SkippedBatches(path).first(step) == first
    source = SkippedBatches(path).remaining(lambda first: iter(range(first, 100)), step)
    kept = [place for place in range(20) if place not in skipped]
    found = [next(source) for _ in range(3)]
    assert found == [(place, place) for place in kept[step : step + 3]]


def test_a_counter_starts_anew_after_a_good_step():
    counter = FailureCounter(3)
    for step, skipped in enumerate([1, 1, 0, 1, 1]):
        total = float("nan") if skipped else 1.0
        counter.add(step, step, {"skipped": skipped, "total": total})
    with pytest.raises(DivergedError, match="total = nan at step 9") as found:
        counter.add(9, 11, {"skipped": 1, "total": float("nan")})
    assert [step.batch for step in found.value.failed] == [3, 4, 11]


@pytest.mark.parametrize("content", ['[{"step": 3', '[{"step": 3}]', "[3]", "3"])
def test_a_damaged_list_of_skipped_batches_is_named(content, tmp_path):
    path = tmp_path / "left_out.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"left_out.json must be as .* is damaged \("):
        SkippedBatches(path)


@pytest.mark.parametrize("content", ["{", "{}", '{"bad": [{"step": 3}]}', "[]"])
def test_a_damaged_postmortem_is_named(content, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=r"report.json must be as .* is damaged \("):
        read_postmortem(tmp_path)
