import dataclasses
import itertools

import equinox as eqx
import jax
import numpy as np
import pytest

from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.arrays import leaf_path
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.state import copy_arrays


# Float32 sums run in another order on every number of devices, and KoLeo divides by
# small distances; a wrong collective is off by the number of devices.
RTOL, ATOL = 1e-3, 2e-5
# Nothing learns them: data statistics, and fixed weights of the terms.
FIXED = ("latent_mean", "latent_std")


def by_path(tree):
    arrays = eqx.filter(tree, eqx.is_inexact_array)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {leaf_path(path): np.asarray(leaf) for path, leaf in leaves}


def after(num_steps, state, step, mesh, batches):
    logged = []
    for batch in itertools.islice(batches(0), num_steps):
        state, metrics = step(state, shard_batch(batch, mesh))
        logged.append({name: float(value) for name, value in metrics.items()})
    return state, logged


@pytest.fixture(scope="module")
def alone(started):
    """The state before and after 3 steps on one device, and the metrics of each."""
    before = started.start()
    # Not `device_get`: what NumPy looks at cannot be donated.
    kept = copy_arrays(before)
    state, logged = after(3, before, started.step, started.mesh, started.batches)
    return kept, before, state, logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_devices", "accumulate", "sharding"),
    [(4, 2, "fsdp"), (8, 1, "zero")],
)
def test_devices_and_microbatches_do_not_change_the_update(
    num_devices, accumulate, sharding, started, alone, data
):
    mesh = data_mesh(num_devices)
    config = dataclasses.replace(
        started.config, accumulate=accumulate, sharding=sharding
    )
    state, step = init_pretraining(config, data["image"], mesh)
    state, logged = after(3, state, step, mesh, started.batches)
    _, _, expected, expected_logged = alone
    for found, wanted in zip(logged, expected_logged, strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=RTOL, err_msg=name)
    found = by_path((state.student, state.teacher, state.weights))
    for name, value in by_path(
        (expected.student, expected.teacher, expected.weights)
    ).items():
        np.testing.assert_allclose(
            found[name], value, rtol=RTOL, atol=ATOL, err_msg=name
        )


def test_a_step_compiles_once(started, alone):
    assert started.step.compiled._cache_size() == 1


def test_a_step_counts_itself_and_keeps_its_key(started, alone):
    _, _, state, _ = alone
    assert int(state.step) == 3
    assert jax.numpy.array_equal(
        jax.random.key_data(state.key), jax.random.key_data(started.start().key)
    )


def test_the_state_before_is_donated(alone):
    _, before, _, _ = alone
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(before, eqx.is_array))
    alive = {leaf_path(path) for path, leaf in leaves if not leaf.is_deleted()}
    assert alive == set()


def test_what_is_learned_moves_and_what_is_fixed_does_not(alone):
    before, _, state, _ = alone
    old, new = (
        by_path((before.student, before.weights)),
        by_path((state.student, state.weights)),
    )
    moved = {name for name in old if not np.array_equal(old[name], new[name])}
    kept = {name for name in old if name.endswith(FIXED) or name.startswith("1.")}
    assert len(kept) == 5
    assert moved == old.keys() - kept


def test_the_teacher_moves_less_than_its_student(alone):
    before, _, state, _ = alone
    distance = lambda part: np.abs(
        np.asarray(part(state).encoder.patch_embed.weight)
        - np.asarray(part(before).encoder.patch_embed.weight)
    ).max()
    followed = distance(lambda state: state.teacher)
    assert 0 < followed < 0.1 * distance(lambda state: state.student.tokenizer)


def test_the_total_is_the_weighted_sum_of_the_terms(started, alone):
    config = started.config
    for metrics in alone[3]:
        total = (
            config.contrast_weight * metrics["contrast"]
            + config.distillation_weight * metrics["distillation"]
            + config.reconstruction_weight * metrics["reconstruction"]
        )
        np.testing.assert_allclose(metrics["total"], total, rtol=1e-5)


def same(found, wanted):
    found, wanted = by_path(found), by_path(wanted)
    return all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_step_that_is_not_finite_changes_nothing(pairs):
    _, two, _ = pairs(2, num_steps=2)
    _, three, logged = pairs(2, num_steps=3, poisoned=2)
    learned = lambda state: (
        state.student, state.teacher, state.weights, state.opt_state,
        state.typical_norm,
    )  # fmt: skip
    assert same(learned(three), learned(two))
    # The run goes on: the step is counted, and so is its omission.
    assert int(three.step) == 3
    assert [line["skipped"] for line in logged] == [0, 0, 1]
    assert int(three.num_skipped) == logged[-1]["num_skipped"] == 1


def test_a_step_after_a_skipped_one_learns(pairs):
    _, begun, _ = pairs(1, num_steps=1, poisoned=0)
    _, state, logged = pairs(1, num_steps=2, poisoned=0)
    assert [line["skipped"] for line in logged] == [1, 0]
    assert [line["num_skipped"] for line in logged] == [1, 1]
    assert np.isfinite(logged[1]["total"])
    assert not same(state.student, begun.student)


def test_a_spike_is_skipped_where_it_is_asked_for(pairs):
    # 1000 times the images: the squared error has a gradient far longer.
    _, _, logged = pairs(1, spiking=1)
    assert logged[1]["gradient_norm"] > 5 * logged[0]["gradient_norm"]
    assert [line["skipped"] for line in logged] == [0, 0, 0]
    _, state, logged = pairs(1, spiking=1, spike_factor=5.0)
    assert [line["skipped"] for line in logged] == [0, 1, 0]
    # As much counts of it as would have been good.
    first, second = logged[0]["gradient_norm"], logged[2]["gradient_norm"]
    typical = first + 4 * first / 50
    typical += (second - typical) / 50
    np.testing.assert_allclose(state.typical_norm, typical, rtol=1e-5)
