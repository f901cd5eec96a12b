from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.latents import (
    channel_variance,
    kl_loss,
    local_correlation_loss,
    rotated_from,
    smoothness_loss,
)


seeds = st.integers(0, 2**31 - 1)
smoothness = jax.jit(smoothness_loss)
divergence = jax.jit(kl_loss)
correlation = jax.jit(local_correlation_loss, static_argnames="threshold")
rotated = jax.jit(rotated_from)


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


@given(seed=seeds)
def test_divergence_is_positive_and_the_one_of_normal_laws(seed):
    mean, log_variance = latents(seed), latents(seed + 1)
    found = divergence(mean, log_variance)
    nats = (mean**2 + np.exp(log_variance) - 1 - log_variance) / 2
    np.testing.assert_allclose(found, nats.mean(axis=(1, 2, 3)), rtol=1e-4)
    assert (np.asarray(found) > 0).all()


def test_the_standard_normal_law_diverges_from_itself_by_nothing():
    zeros = jnp.zeros((2, 3, 3, 4))
    np.testing.assert_array_equal(divergence(zeros, zeros), 0)
    slope = jax.grad(lambda log_variance: divergence(zeros, log_variance).sum())(zeros)
    np.testing.assert_array_equal(slope, 0)


@given(seed=seeds, order=st.permutations(range(3)))
def test_correlation_is_of_each_image_and_knows_no_scale(seed, order):
    grid, order = latents(seed), np.array(order)
    grid = np.concatenate([grid, grid[..., ::-1] ** 2], axis=-1)  # four channels
    found = correlation(grid, threshold=0.75)
    assert ((np.asarray(found) >= 0) & (np.asarray(found) <= 1.75)).all()
    moved = 3 * grid[order] + 2  # a constant over channels is no direction
    expected = np.asarray(found)[order]
    np.testing.assert_allclose(
        correlation(moved, threshold=0.75), expected, rtol=1e-3, atol=1e-4
    )


def test_neighbors_that_are_alike_enough_cost_nothing():
    grid = np.random.default_rng(0).standard_normal((2, 1, 1, 4)).astype(np.float32)
    flat = np.broadcast_to(grid, (2, 3, 4, 4))
    np.testing.assert_allclose(correlation(flat, threshold=0.75), 0)
    # All pairs of a window are opposite or the same: (2 - 4) / 6 is their mean.
    signs = np.float32([[1, -1], [-1, 1]])[:, :, None]
    found = correlation(grid * signs, threshold=0.75)
    np.testing.assert_allclose(found, 0.75 + 1 / 3, rtol=1e-5)


@given(seed=seeds, degrees=st.sampled_from([0.0, 42.5, 85.0, 90.0]))
def test_a_rotation_keeps_the_length_and_has_its_angle(seed, degrees):
    grid, noise = latents(seed), latents(seed + 1)
    flat, moved = (
        np.asarray(values).reshape(3, -1)
        for values in (grid, rotated(grid, noise, degrees))
    )
    length = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), length, rtol=1e-4)
    cosine = np.sum(flat * moved, axis=1) / length**2
    np.testing.assert_allclose(cosine, np.cos(np.deg2rad(degrees)), atol=1e-4)


def test_windows_need_two_rows():
    with pytest.raises(ValueError, match="Windows are 2 x 2; got latents of 1 x 4"):
        local_correlation_loss(jnp.zeros((2, 1, 4, 3)), threshold=0.5)
