"""The path, its loss, the distribution of times, and the order of the solvers."""

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from vtp_eqx.flow import (
    cosine_distance,
    dopri5,
    euler,
    flow_loss,
    guided,
    heun,
    interpolate,
    sample,
    time_grid,
    time_samples,
)


SHAPE = (3, 2, 2, 4)


def pair(seed):
    return (jr.normal(key, SHAPE) for key in jr.split(jr.key(seed)))


def test_the_path_runs_from_noise_to_data_at_its_velocity():
    noise, data = pair(0)
    start, velocity = interpolate(noise, data, jnp.zeros(3))
    end, _ = interpolate(noise, data, jnp.ones(3))
    np.testing.assert_array_equal(start, noise)
    np.testing.assert_array_equal(end, data)
    middle, _ = interpolate(noise, data, jnp.full(3, 0.25))
    np.testing.assert_allclose(middle, noise + 0.25 * velocity, rtol=1e-5, atol=1e-6)


def test_one_loss_by_hand():
    # One position: (1, 0) for (0, 1) has square error (1 + 1) / 2 and cosine 0.
    velocity, target = (
        jnp.zeros((2, 1, 1, 1, 2)).at[0, ..., 0].set(1.0).at[1, ..., 1].set(1.0)
    )
    loss = flow_loss(velocity, target, cosine_weight=0.5)
    np.testing.assert_allclose(loss.square, [1.0], rtol=1e-6)
    np.testing.assert_allclose(loss.cosine, [1.0], rtol=1e-6)
    np.testing.assert_allclose(loss.total, [1.5], rtol=1e-6)


@given(seed=st.integers(0, 2**31 - 1), order=st.permutations(range(3)))
def test_permuting_the_batch_permutes_the_loss(seed, order):
    velocity, target = pair(seed)
    order = np.array(order)
    loss = flow_loss(velocity, target).total
    permuted = flow_loss(velocity[order], target[order]).total
    np.testing.assert_allclose(permuted, loss[order], rtol=1e-5)


@given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([0.5, 2.0, 7.0]))
def test_cosine_distance_sees_the_direction_alone(seed, scale):
    a, b = pair(seed)
    distance = cosine_distance(a, b)
    np.testing.assert_allclose(cosine_distance(scale * a, b), distance, atol=1e-5)
    np.testing.assert_allclose(cosine_distance(a, a), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(a, -a), 2, atol=1e-6)


def test_the_gradient_at_zero_velocity_is_moderate():
    _, target = pair(1)
    total = lambda velocity: flow_loss(velocity, target).total.sum()
    gradient = jax.grad(total)(jnp.zeros(SHAPE))
    assert float(jnp.abs(gradient).max()) < 10


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 1.25), (-0.75, 1.0)])
def test_times_are_logit_normal(mean, std, getkey):
    times = time_samples(4096, mean=mean, std=std, key=getkey())
    assert times.dtype == jnp.float32
    logits = np.log(times / (1 - times))
    assert stats.kstest(logits, stats.norm(mean, std).cdf).pvalue > 0.01


@pytest.mark.parametrize(("mean", "median"), [(-0.5, 0.3775), (-0.75, 0.3208)])
def test_the_median_time_is_the_published_one(mean, median, getkey):
    times = time_samples(20_000, mean=mean, std=0.1, key=getkey())
    np.testing.assert_allclose(np.median(times), median, atol=2e-3)


def test_the_published_shift_gathers_steps_near_the_noise():
    uniform = np.array([0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1])
    expected = [0, 0.00826, 0.02439, 0.06977, 0.18367, 0.40299, 0.88131, 1]
    shifted = np.interp(uniform, time_grid(100), time_grid(100, 0.075))
    np.testing.assert_allclose(shifted, expected, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.075, 1.0, 3.0])
def test_a_grid_climbs_from_noise_to_data(shift):
    grid = time_grid(7, shift)
    assert grid.shape == (8,)
    assert float(grid[0]) == 0
    assert float(grid[-1]) == 1
    assert bool((jnp.diff(grid) > 0).all())
    if shift in (0.0, 1.0):
        np.testing.assert_allclose(grid, np.linspace(0, 1, 8), atol=1e-6)


def test_the_exact_field_reaches_the_data_in_one_step():
    noise, data = pair(2)
    reached = sample(lambda x, t: data - noise, noise, time_grid(1))
    np.testing.assert_allclose(reached, data, atol=1e-6)


@pytest.mark.parametrize(("step", "order"), [(euler, 1), (heun, 2)])
def test_error_falls_at_the_order_of_the_solver(step, order):
    # x' = t - x from x(0) = 1, so x(1) = 2 / e.
    start = jnp.ones((1, 1, 1, 1))
    exact = 2 / np.e
    counts = [4, 8, 16, 32]
    errors = [
        abs(float(sample(pull, start, time_grid(count), step).item()) - exact)
        for count in counts
    ]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + order) < 0.15


def pull(x, t):
    return t - x


def test_the_adaptive_solver_is_as_exact_as_asked_or_nan():
    start = jnp.ones((1, 1, 1, 1))
    errors = [
        abs(float(dopri5(pull, start, tolerance=tolerance).item()) - 2 / np.e)
        for tolerance in (1e-2, 1e-5)
    ]
    assert errors[1] < 1e-5
    assert errors[1] <= errors[0] < 1e-2
    assert np.isnan(dopri5(pull, start, tolerance=1e-5, max_steps=1).item())


def test_guidance_of_one_is_conditional_and_of_zero_unconditional():
    conditional, unconditional = pair(3)
    t = jnp.asarray(0.5)
    one = guided(conditional, unconditional, t, scale=1.0)
    np.testing.assert_array_equal(one, conditional)
    none = guided(conditional, unconditional, t, scale=0.0)
    np.testing.assert_allclose(none, unconditional, atol=1e-6)
    twice = guided(conditional, unconditional, t, scale=2.0)
    np.testing.assert_allclose(twice, 2 * conditional - unconditional, atol=1e-5)


def test_guidance_starts_at_its_time_and_keeps_to_its_channels():
    conditional, unconditional = pair(4)
    push = lambda t: guided(
        conditional, unconditional, jnp.asarray(t), scale=3.0, start=0.3, channels=2
    )
    np.testing.assert_array_equal(push(0.29), conditional)
    np.testing.assert_array_equal(push(0.3)[..., 2:], conditional[..., 2:])
    assert not bool((push(0.3)[..., :2] == conditional[..., :2]).any())


def test_many_weights_compile_once():
    traces = []

    class Pull(eqx.Module):
        weight: jax.Array

        def __call__(self, x, t):
            traces.append(t)
            return self.weight * x

    noise, _ = pair(5)
    reached = [sample(Pull(jnp.asarray(w)), noise, time_grid(2)) for w in (0.0, 1.0)]
    np.testing.assert_array_equal(reached[0], noise)
    np.testing.assert_allclose(reached[1], 2.25 * noise, rtol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_grid(0), "`num_steps`"),
        (lambda: time_grid(2, -1.0), "`shift`"),
        (lambda: time_samples(2, std=0.0, key=jr.key(0)), "`std`"),
        (
            lambda: guided(*pair(0), jnp.asarray(0.0), scale=2.0, channels=5),
            "`channels`",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
