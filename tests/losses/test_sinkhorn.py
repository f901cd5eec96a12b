from hypothesis import given, strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.losses.sinkhorn import balanced_targets, sinkhorn, sinkhorn_offsets
from vtp_eqx.mesh import DATA, data_mesh, REPLICATED, SPLIT


seeds = st.integers(0, 2**31 - 1)
sharpened = jax.jit(lambda logits: sinkhorn(logits, temperature=0.07))


@jax.jit
def balanced(logits, weight=None):
    return sinkhorn(logits, temperature=1.0, iterations=20, weight=weight)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def published_sinkhorn(logits, dtype):
    """The published loop on exponentials, three iterations."""
    logits = logits.astype(dtype)
    with np.errstate(under="ignore", invalid="ignore"):
        q = np.exp((logits - logits.max()) / dtype(0.07)).T
        for _ in range(3):
            q = q / q.sum(1, keepdims=True) / len(q)
            q = q / q.sum(0, keepdims=True)
    return q.T


@given(seed=seeds)
def test_sinkhorn_meets_both_marginals(seed):
    targets = np.asarray(balanced(draw(seed, 12, 4)))
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(targets.sum(0), 12 / 4, rtol=1e-3)


@given(seed=seeds)
def test_sinkhorn_is_the_published_loop(seed):
    logits = draw(seed, 12, 4)
    published = published_sinkhorn(logits, np.float64)
    np.testing.assert_allclose(sharpened(logits), published, rtol=1e-3, atol=1e-6)


def test_sinkhorn_by_hand():
    # Both rows prefer prototype 0. Equal use of prototypes gives each row one of them
    # to the share that its odds allow: with odds 4 and 1, two thirds and one third.
    targets = balanced(np.log(np.float32([[4.0, 1.0], [1.0, 1.0]])))
    np.testing.assert_allclose(targets, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], rtol=1e-4)


@given(seed=seeds)
def test_sinkhorn_does_not_read_padding(seed):
    logits, weight = draw(seed, 12, 4), np.float32([1.0] * 8 + [0.0] * 4)
    targets = balanced(logits, weight)
    np.testing.assert_array_equal(targets[8:], 0)
    np.testing.assert_allclose(targets[:8], balanced(logits[:8]), rtol=1e-5)
    logits[8:] *= 50
    np.testing.assert_array_equal(targets, balanced(logits, weight))


def test_sinkhorn_survives_logits_that_underflow_an_exponential():
    # Row 1 lies 200 temperatures below row 0: its exponentials are zero in float32.
    logits = np.float32([[14.0, 13.9], [0.0, 0.1]])
    assert np.isnan(published_sinkhorn(logits, np.float32)).any()
    exact = published_sinkhorn(logits, np.float64)
    np.testing.assert_allclose(sharpened(logits), exact, rtol=1e-3)


@given(seed=seeds, order=st.permutations(range(6)))
def test_reordering_the_rows_reorders_their_targets(seed, order):
    rows, order = draw(seed, 6, 4), np.array(order)
    expected = np.asarray(balanced(rows))[order]
    np.testing.assert_allclose(balanced(rows[order]), expected, rtol=1e-4, atol=1e-6)


def test_sinkhorn_refuses_what_means_nothing(getkey):
    logits = jr.normal(getkey(), (6, 4))
    with pytest.raises(ValueError, match="needs a hidden patch; got none in 6 rows"):
        sinkhorn(logits, temperature=0.07, weight=jnp.zeros(6))
    with pytest.raises(ValueError, match="`temperature` must be positive; got 0"):
        sinkhorn(logits, temperature=0.0)
    with pytest.raises(ValueError, match="`iterations` must be 1 or more; got 0"):
        sinkhorn(logits, temperature=0.07, iterations=0)
    assert np.isnan(balanced(logits, jnp.zeros(6))).all()


PADDED = np.arange(16) % 5 == 0
PROTOTYPES = draw(1, 4, 3)


def offsets(rows, kept, *, axis_name=None, block=None):
    """Of logits that exist a block at a time: products with some prototypes."""
    return sinkhorn_offsets(
        lambda row: PROTOTYPES @ row, rows, kept,
        temperature=0.5, axis_name=axis_name, block=block,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """Rows, and the targets by a matrix that exists whole."""
    rows = jnp.asarray(draw(0, 16, 3))
    weight = jnp.asarray(~PADDED, jnp.float32)
    return rows, sinkhorn(rows @ PROTOTYPES.T, temperature=0.5, weight=weight)


@pytest.mark.parametrize("block", [1, 5, 16])  # 5 leaves a block that is not full
def test_blocks_of_rows_do_not_change_the_targets(block, whole):
    rows, expected = whole
    found = jax.jit(lambda *given: offsets(*given, block=block))(rows, ~PADDED)
    targets = balanced_targets(rows @ PROTOTYPES.T, found, temperature=0.5)
    np.testing.assert_allclose(targets[~PADDED], expected[~PADDED], rtol=1e-4)


@pytest.mark.parametrize("num_devices", [2, 8])
def test_devices_and_blocks_do_not_change_the_targets(num_devices, whole):
    # Blocks of one row: some are padding alone.
    rows, expected = whole
    sharded = jax.shard_map(
        lambda *given: lax.pmean(offsets(*given, axis_name=DATA, block=1), DATA),
        mesh=data_mesh(num_devices), in_specs=SPLIT, out_specs=REPLICATED,
    )  # fmt: skip
    found = jax.jit(sharded)(rows, ~PADDED)
    targets = balanced_targets(rows @ PROTOTYPES.T, found, temperature=0.5)
    np.testing.assert_allclose(targets[~PADDED], expected[~PADDED], rtol=1e-4)


def test_logits_do_not_exist_whole():
    # 16384 rows of 32768 float32 logits are 2 GiB.
    prototypes = jax.ShapeDtypeStruct((32768, 8), jnp.float32)
    rows = jax.ShapeDtypeStruct((16384, 8), jnp.float32)
    found = lambda rows, prototypes: sinkhorn_offsets(
        lambda row: prototypes @ row, rows, jnp.ones(16384, bool), temperature=0.1
    )
    needed = jax.jit(found).lower(rows, prototypes).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 2**30
