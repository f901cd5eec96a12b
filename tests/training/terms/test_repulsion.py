"""A generator whose features move away from those in a memory bank."""

import dataclasses
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.examples import GENERATE, LABELS, LATENTS
from vtp_eqx.config import GenerateConfig, RepulsionConfig, short_hash
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.losses.repulsion import repulsion_loss
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.dit import DiT
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.train_generator import train_on_batches
from vtp_eqx.training.flops import train_step_flops
from vtp_eqx.training.generate import init_generator_training, LatentBatch
from vtp_eqx.training.terms.repulsion import Repulsion


BANK = 20
CONFIG = dataclasses.replace(
    GENERATE,
    dit=dataclasses.replace(GENERATE.dit, depth=2),
    repulsion=RepulsionConfig(weight=0.5, width=4, bank_size=BANK),
)


def batch(first, mesh, size=8):
    rows = (np.arange(size) + first) % len(LATENTS)
    return shard_batch(LatentBatch(LATENTS[rows], LABELS[rows]), mesh)


def trained(config, num_devices, num_steps=3):
    """The state after some steps, and the metrics of each."""
    mesh, metrics = data_mesh(num_devices), []
    state, step = init_generator_training(config, mesh)
    for number in range(num_steps):
        state, of_step = step(state, batch(8 * number, mesh))
        metrics.append({name: float(value) for name, value in of_step.items()})
    return jax.device_get(state), metrics


@pytest.fixture(scope="module")
def alone():
    return trained(CONFIG, 1)


def test_the_bank_holds_the_newest_rows_and_the_total_its_loss(alone):
    state, metrics = alone
    bank = state.memory["repulsion"]
    lengths = np.linalg.norm(bank, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)  # 24 rows have passed
    assert metrics[0]["repulsion"] == 0  # an empty bank
    assert -8 < metrics[1]["repulsion"] < 0
    for of_step in metrics:
        total = of_step["flow"] + 0.5 * of_step["repulsion"]
        assert of_step["total"] == pytest.approx(total, rel=1e-5)


def test_a_step_puts_what_the_head_makes_of_a_block_into_the_bank():
    mesh = data_mesh(1)
    state, step = init_generator_training(CONFIG, mesh)
    start = jax.device_get(state)
    # A new block is the identity, so that all have the mean of the tokens at first.
    after, metrics = step(state, batch(0, mesh))
    bank = np.asarray(after.memory["repulsion"])
    assert (bank[:8] != 0).any(axis=1).all()
    assert (bank[8:] == 0).all()
    assert isinstance(after.teacher, DiT)
    assert jax.tree.structure(after.teacher) == jax.tree.structure(start.student.dit)
    again, metrics = step(after, batch(8, mesh))
    np.testing.assert_array_equal(again.memory["repulsion"][8:16], bank[:8])
    expected = repulsion_loss(
        again.memory["repulsion"][:8], jnp.asarray(bank), temperature=0.5
    )
    assert float(metrics["repulsion"]) == pytest.approx(
        float(expected.mean()), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "accumulate"), [(2, 1), (4, 1), (2, 2)])
def test_devices_and_microbatches_do_not_change_the_update(
    num_devices, accumulate, alone
):
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    found, metrics = trained(config, num_devices)
    expected, expected_metrics = alone
    for name, value in expected_metrics[-1].items():
        assert metrics[-1][name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    parts = lambda state: eqx.filter((state.student, state.memory), eqx.is_array)
    for one, other in zip(
        *(jax.tree.leaves(parts(state)) for state in (found, expected)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4)


def test_the_head_and_the_transformer_learn_from_it(alone):
    state, _ = alone
    start, _ = init_generator_training(CONFIG, data_mesh(1))
    moved = lambda where: np.abs(np.asarray(where(state) - where(start))).max()
    assert moved(lambda state: state.student.heads["repulsion"].out.weight) > 1e-3
    without = dataclasses.replace(CONFIG, repulsion=RepulsionConfig())
    plain, _ = trained(without, 1)
    assert plain.memory is None
    weight = lambda dit: np.asarray(dit.to_tokens.weight)
    assert not np.array_equal(weight(plain.student), weight(state.student.dit))


def test_a_skipped_step_leaves_the_bank_as_it_was():
    mesh = data_mesh(1)
    state, step = init_generator_training(CONFIG, mesh)
    state, _ = step(state, batch(0, mesh))
    before = np.asarray(state.memory["repulsion"])
    bad = eqx.tree_at(lambda batch: batch.latents, batch(8, mesh), replace_fn=nan)
    state, metrics = step(state, bad)
    assert int(metrics["skipped"]) == 1
    np.testing.assert_array_equal(state.memory["repulsion"], before)


def nan(array):
    return jnp.full_like(array, jnp.nan)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(num_devices, tmp_path):
    arrays = {"latents": LATENTS, "condition": LABELS}
    batches = ArrayBatches(LatentBatch, arrays, CONFIG.batch_size, seed=CONFIG.seed)

    def run():
        return jax.device_get(train_on_batches(
            CONFIG, batches, folder=tmp_path / "run", mesh=data_mesh(num_devices),
            save_every=3,
        ))  # fmt: skip

    def saved(step):
        """The arrays of a checkpoint."""
        state, _ = init_generator_training(CONFIG, data_mesh(num_devices))
        with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
            state = checkpoints.restore(state)
        assert int(state.step) == step
        return jax.device_get(eqx.filter(state, eqx.is_array))

    whole, last = run(), saved(6)
    assert (last.memory["repulsion"] != 0).any(axis=1).all()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    assert (saved(3).memory["repulsion"] != last.memory["repulsion"]).any()
    assert eqx.tree_equal(run(), whole)
    again = saved(6)
    assert eqx.tree_equal(again.memory, last.memory)
    assert eqx.tree_equal(again.student, last.student)


def test_configs_without_it_keep_their_hash():
    names = short_hash(GENERATE)
    assert short_hash(dataclasses.replace(GENERATE, repulsion=RepulsionConfig())) == (
        names
    )
    assert short_hash(CONFIG) != names
    assert GenerateConfig(dit=GENERATE.dit).repulsion.weight == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, r"^`repulsion.weight` \(-1.0\) must not be negative"),
        ({"temperature": 0.0}, r"^`repulsion.temperature` \(0.0\) must be positive"),
        ({"bank_size": 0}, r"^`repulsion.bank_size` \(0\) must be positive"),
        ({"depth_share": 0.0}, r"^`repulsion.depth_share` \(0.0\) must be a share"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RepulsionConfig(**changes)


def test_flops_are_those_of_the_compiler():
    term = Repulsion(dataclasses.replace(
        CONFIG, repulsion=RepulsionConfig(weight=1.0, width=256, bank_size=512)
    ))  # fmt: skip
    head = eqx.filter_jit(term.make_head)(jax.random.key(0))

    def both_ways(features, bank):
        def loss(features):
            return repulsion_loss(unit_norm(features), bank, temperature=0.5).sum()

        return jax.grad(loss)(features)

    cost = jax.jit(both_ways).lower(jnp.ones((16, 256)), jnp.ones((512, 256)))
    products = cost.compile().cost_analysis()["flops"] / 16
    # Beside the products, a few operations for each number of the bank.
    assert term.flops().frozen == pytest.approx(products, rel=0.1)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(head) if leaf.ndim == 2)
    assert term.flops().student == 2 * parameters
    more = train_step_flops(term.config) - train_step_flops(GENERATE)
    assert more > 0
