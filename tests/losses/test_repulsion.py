import math

from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.losses.repulsion import enqueued, repulsion_loss


seeds = st.integers(0, 2**31 - 1)
loss = jax.jit(repulsion_loss)


def rows(seed, count=4, width=5):
    drawn = np.random.default_rng(seed).standard_normal((count, width))
    return unit_norm(jnp.asarray(drawn, jnp.float32))


def test_by_hand():
    # Squared distances 0 and 4, at a temperature of 2: the mean of 1 and exp(-2).
    bank = np.float32([[1, 0], [-1, 0], [0, 0]])  # the last is empty
    found = loss(np.float32([[1, 0]]), bank, temperature=2.0)
    np.testing.assert_allclose(found, [math.log((1 + math.exp(-2)) / 2)], rtol=1e-5)


@given(seed=seeds, temperature=st.floats(0.1, 5.0))
def test_equal_features_cost_nothing_and_opposite_ones_least(seed, temperature):
    feature = rows(seed, 1)
    bank = jnp.repeat(feature, 3, axis=0)
    equal = loss(feature, bank, temperature=temperature)
    np.testing.assert_allclose(equal, 0, atol=1e-4)
    opposite = loss(-feature, bank, temperature=temperature)
    np.testing.assert_allclose(opposite, -4 / temperature, rtol=1e-4)
    between = np.asarray(loss(rows(seed + 1, 6), bank, temperature=temperature))
    assert (between <= 1e-4).all()
    assert (between >= -4 / temperature - 1e-4).all()


@given(seed=seeds, order=st.permutations(range(6)))
def test_neither_the_order_of_a_bank_nor_a_rotation_of_all_matters(seed, order):
    features, bank = rows(seed), rows(seed + 1, 6)
    expected = loss(features, bank, temperature=0.5)
    shuffled = loss(features, bank[np.array(order)], temperature=0.5)
    np.testing.assert_allclose(shuffled, expected, rtol=1e-4, atol=1e-5)
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
    turned = [(vectors @ turn).astype(np.float32) for vectors in (features, bank)]
    found = loss(*turned, temperature=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@given(seed=seeds)
def test_empty_rows_of_a_bank_do_not_count(seed):
    features, bank = rows(seed), rows(seed + 1, 3)
    longer = jnp.concatenate([bank, jnp.zeros((4, 5))])
    np.testing.assert_allclose(
        loss(features, longer, temperature=0.5),
        loss(features, bank, temperature=0.5),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_an_empty_bank_costs_nothing_and_moves_nothing():
    features, bank = rows(0), jnp.zeros((3, 5))
    value, gradient = jax.value_and_grad(
        lambda features: repulsion_loss(features, bank, temperature=0.5).sum()
    )(features)
    assert value == 0
    assert (gradient == 0).all()


def test_a_step_along_the_gradient_leads_away_and_the_bank_stays():
    features, bank = rows(0), rows(1, 6)
    mean = lambda features, bank: loss(features, bank, temperature=0.5).mean()
    gradient, of_bank = jax.grad(mean, argnums=(0, 1))(features, bank)
    assert (of_bank == 0).all()
    moved = unit_norm(features - 0.1 * gradient)
    assert mean(moved, bank) < mean(features, bank)


def test_blocks_of_rows_do_not_change_it():
    features, bank = rows(0, 7), rows(1, 6)
    blocks = repulsion_loss(features, bank, temperature=0.5, block=2)
    whole = repulsion_loss(features, bank, temperature=0.5)
    np.testing.assert_allclose(blocks, whole, rtol=1e-5)


def test_the_oldest_leave_a_bank():
    bank = enqueued(jnp.zeros((5, 2)), jnp.ones((3, 2)))
    np.testing.assert_array_equal(bank[:, 0], [1, 1, 1, 0, 0])
    second = jnp.full((3, 2), 2.0)
    np.testing.assert_array_equal(enqueued(bank, second)[:, 0], [2, 2, 2, 1, 1])
    np.testing.assert_array_equal(enqueued(bank[:2], second)[:, 0], [2, 2])


def test_nan_and_no_temperature_are_errors():
    with pytest.raises(ValueError, match=r"^`features` must be finite"):
        repulsion_loss(jnp.full((2, 5), jnp.nan), rows(0), temperature=0.5)
    with pytest.raises(ValueError, match=r"^`temperature` must be positive"):
        repulsion_loss(rows(0), rows(1), temperature=0.0)
