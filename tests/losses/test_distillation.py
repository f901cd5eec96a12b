import math

from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.losses.distillation import (
    center_targets,
    dino_loss,
    ibot_loss,
    koleo_loss,
    updated_center,
)
from vtp_eqx.losses.sinkhorn import sinkhorn


seeds = st.integers(0, 2**31 - 1)
dino = jax.jit(dino_loss)
ibot = jax.jit(ibot_loss, static_argnames="num_images")
koleo = jax.jit(koleo_loss)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distributions(seed, *shape):
    odds = np.exp(draw(seed + 1, *shape))
    return odds / odds.sum(-1, keepdims=True)


def test_targets_carry_no_gradient(getkey):
    logits = jr.normal(getkey(), (6, 4))
    for targets in (
        lambda rows: sinkhorn(rows, temperature=0.07),
        lambda rows: center_targets(rows, rows[0], 0.07),
        lambda rows: updated_center(rows[0], rows),
    ):
        gradient = jax.grad(lambda rows, targets=targets: targets(rows)[..., 0].sum())
        np.testing.assert_array_equal(gradient(logits), 0)


def test_centered_targets_by_hand():
    center = updated_center(jnp.array([1.0, 0.0]), jnp.array([[0.0, 0.0], [4.0, 2.0]]))
    np.testing.assert_allclose(center, [1.1, 0.1], rtol=1e-6)
    # The center takes away the lead of prototype 0: the row is undecided.
    targets = center_targets(jnp.array([2.1, 1.1]), center, temperature=0.5)
    np.testing.assert_allclose(targets, [0.5, 0.5], rtol=1e-6)


def test_an_undecided_student_pays_the_log_of_its_choices():
    undecided = np.zeros((4, 3, 5), np.float32)
    loss = dino(undecided[:2], undecided, distributions(0, 2, 3, 5))
    np.testing.assert_allclose(loss, math.log(5), rtol=1e-5)


def test_dino_averages_equal_terms():
    crops, targets = draw(0, 6, 3, 5), distributions(0, 2, 3, 5)
    student, local = crops[:2], crops[2:]

    def term(target, logits):
        odds = np.exp(logits / 0.1)
        return -(target * np.log(odds / odds.sum(-1, keepdims=True))).sum(-1)

    terms = [term(targets[1], student[0]), term(targets[0], student[1])]
    terms += [term(target, logits) for target in targets for logits in local]
    assert len(terms) == 10
    loss = dino(student, local, targets)
    np.testing.assert_allclose(loss, sum(terms) / 10, rtol=1e-4)


def test_a_global_crop_does_not_learn_from_itself():
    student, targets = draw(0, 2, 3, 5), distributions(0, 2, 3, 5)
    total = lambda student, targets: dino_loss(student, student[:0], targets).sum()
    gradient = jax.jit(jax.grad(total))
    before = gradient(student, targets)
    targets[0] = 1 / 5
    after = gradient(student, targets)
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).any()


@given(seed=seeds, order=st.permutations(range(6)))
def test_reordering_the_images_reorders_the_loss(seed, order):
    order = np.array(order)
    crops, targets = draw(seed, 6, 6, 5), distributions(seed, 2, 6, 5)
    student, local, rows = crops[:2], crops[2:], crops[0]
    permuted = dino(student[:, order], local[:, order], targets[:, order])
    expected = np.asarray(dino(student, local, targets))
    np.testing.assert_allclose(permuted, expected[order], rtol=1e-4)
    expected = np.asarray(koleo(rows))[order]
    np.testing.assert_allclose(koleo(rows[order]), expected, rtol=1e-4, atol=1e-6)


@given(seed=seeds)
def test_a_shift_of_a_rows_logits_changes_nothing(seed):
    student, targets = draw(seed, 6, 3, 5), distributions(seed, 2, 3, 5)
    shifted = student + draw(seed + 2, 6, 3, 1)
    expected = dino(student[:2], student[2:], targets)
    ours = dino(shifted[:2], shifted[2:], targets)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def masked_rows():
    """Five rows: two patches of crop 0, one of crop 2, and two of padding."""
    weight = jnp.array([0.5, 0.5, 1.0, 0.0, 0.0])
    return dict(weight=weight, image=jnp.array([0, 0, 2, 1, 2]), num_images=3)


def test_ibot_by_hand():
    # Crop 0: log 2 at an undecided patch, 0 at a certain one. Crop 1 has no mask.
    # Crop 2 prefers the wrong prototype by 3 temperatures.
    student = np.float32([[0, 0], [99, 0], [0.3, 0], [7, 0], [0, 7]])
    targets = np.float32([[1, 0], [1, 0], [0, 1], [0, 1], [1, 0]])
    loss = ibot(student, targets, **masked_rows())
    by_hand = [math.log(2) / 2, 0, math.log1p(math.exp(3))]
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5)


@jax.jit
def ibot_and_gradient(student, targets):
    total = lambda student: ibot_loss(student, targets, **masked_rows()).sum()
    return jax.value_and_grad(total)(student)


@given(seed=seeds)
def test_ibot_does_not_read_padding(seed):
    student, targets = draw(seed, 5, 4), distributions(seed, 5, 4)
    value, gradient = ibot_and_gradient(student, targets)
    np.testing.assert_array_equal(gradient[3:], 0)
    assert (np.asarray(gradient[:3]) != 0).any()
    student[3:] *= 30
    other_value, other_gradient = ibot_and_gradient(student, targets)
    np.testing.assert_array_equal(value, other_value)
    np.testing.assert_array_equal(gradient, other_gradient)


def test_a_batch_without_masked_patches_is_an_error(getkey):
    student, rows = jr.normal(getkey(), (5, 4)), masked_rows()
    rows["weight"] = jnp.zeros(5)
    with pytest.raises(ValueError, match="needs a hidden patch; got none in 5 rows"):
        ibot_loss(student, jax.nn.softmax(student), **rows)
    assert np.isnan(ibot(student, jax.nn.softmax(student), **rows)).all()


def test_koleo_by_hand():
    # Directions at 0, 60 and 180 degrees, whatever their lengths: distances 1, 1 and
    # the chord of 120 degrees.
    points = jnp.array([[2.0, 0.0], [0.5, math.sqrt(0.75)], [-3.0, 0.0]])
    np.testing.assert_allclose(koleo(points), [0, 0, -math.log(3) / 2], atol=1e-6)


@jax.jit
def koleo_slope(points, direction):
    return jax.jvp(koleo_loss, (points,), (direction,))[1]


@given(seed=seeds)
def test_koleo_falls_when_a_point_leaves_its_nearest_neighbor(seed):
    # A slope, because after a step of any size another neighbor may be the nearest.
    points = draw(seed, 6, 4)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    nearest = points[(points @ points.T - 3 * np.eye(6))[0].argmax()]
    away = np.zeros_like(points)
    away[0] = points[0] - nearest
    assert koleo_slope(points, away)[0] < 0
    assert koleo_slope(points, -away)[0] > 0


@pytest.mark.parametrize("points", [jnp.ones((3, 4)), jnp.zeros((3, 4))])
def test_koleo_of_coinciding_points_is_finite(points):
    total = jax.jit(jax.value_and_grad(lambda x: koleo_loss(x).sum()))
    value, gradient = total(points)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_koleo_in_groups_is_koleo_of_each_group():
    points = draw(5, 12, 4)
    points = jnp.asarray(points)
    groups = [koleo_loss(part) for part in jnp.split(points, 3)]
    found = koleo_loss(points, group=4)
    np.testing.assert_allclose(found, np.concatenate(groups), rtol=1e-6)
    assert (found <= koleo(points) + 1e-6).all()  # among fewer, neighbors are farther
    with pytest.raises(ValueError, match=r"`group` \(5\) must be .* divide .* 12"):
        koleo_loss(points, group=5)


def test_koleo_needs_a_neighbor():
    with pytest.raises(ValueError, match=r"needs 2 images or more.*; got 1"):
        koleo_loss(jnp.ones((1, 4)))
