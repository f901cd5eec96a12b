from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.latents import channel_variance, smoothness_loss


seeds = st.integers(0, 2**31 - 1)
smoothness = jax.jit(smoothness_loss)


def latents(seed):
    draw = np.random.default_rng(seed)
    return draw.standard_normal((3, 4, 5, 2)).astype(np.float32)


def test_by_hand():
    # One image of 2 x 2 positions and one channel of variance 1.
    grid = jnp.float32([1, 1, -1, -1]).reshape(1, 2, 2, 1)
    # Down, neighbors differ by 2 (squared: 4), across by 0: (4 + 0) / 4.
    np.testing.assert_allclose(smoothness(grid), [1], rtol=1e-5)
    np.testing.assert_allclose(channel_variance(grid), [1])


@given(seed=seeds)
def test_scale_and_place_of_a_channel_do_not_count(seed):
    grid = latents(seed)
    moved = grid * np.float32([0.5, 20]) + np.float32([3, -1])
    np.testing.assert_allclose(smoothness(moved), smoothness(grid), rtol=1e-3)


@given(seed=seeds, order=st.permutations(range(3)))
def test_reordering_the_images_reorders_the_loss(seed, order):
    grid, order = latents(seed), np.array(order)
    expected = smoothness(grid)[order]
    np.testing.assert_allclose(smoothness(grid[order]), expected, rtol=1e-4)


def test_neighbors_that_have_nothing_to_do_with_each_other_cost_one():
    draw = np.random.default_rng(0)
    grid = draw.standard_normal((64, 16, 16, 4)).astype(np.float32)
    assert float(smoothness(grid).mean()) == pytest.approx(1, abs=0.02)


def test_latents_that_are_all_the_same_cost_nothing():
    grid = np.random.default_rng(0).standard_normal((5, 1, 1, 3)).astype(np.float32)
    flat = np.broadcast_to(grid, (5, 4, 4, 3))
    np.testing.assert_allclose(smoothness(flat), 0)


def test_it_cannot_be_evaded_by_shrinking():
    grid = latents(1)
    slope = jax.grad(lambda scale: smoothness_loss(scale * grid).sum())(1.0)
    assert abs(float(slope)) < 1e-4


def test_a_grid_without_neighbors_is_refused():
    with pytest.raises(ValueError, match="2 or more to have neighbors; got 1 x 4"):
        smoothness_loss(jnp.zeros((2, 1, 4, 3)))


def test_nan_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        smoothness_loss(jnp.full((1, 2, 2, 1), jnp.nan))
