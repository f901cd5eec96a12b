from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss


LOSSES = [jax.jit(loss) for loss in (l1_loss, pooled_l1_loss, gradient_l1_loss)]
l1, pooled, gradient = LOSSES
seeds = st.integers(0, 2**31 - 1)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda one: one.__name__)


def images(seed):
    rows = np.random.default_rng(seed).standard_normal((2, 3, 8, 4, 3))
    return rows.astype(np.float32)


def test_by_hand():
    prediction = target = np.zeros((2, 4, 4, 3), np.float32)
    # Image 0 is off by 2 everywhere. Image 1 is a checkerboard of 1 and -1.
    board = 1 - 2 * (np.indices((4, 4)).sum(0) % 2)
    prediction = prediction + np.stack([np.full((4, 4), 2), board])[..., None]
    prediction = prediction.astype(np.float32)
    np.testing.assert_allclose(l1(prediction, target), [2, 1])
    np.testing.assert_allclose(pooled(prediction, target), [2, 0])
    np.testing.assert_allclose(gradient(prediction, target), [0, 2])


def test_both_pools_count_equally():
    # One corner of 2 x 2 pixels: a quarter of the 2x2 pools, a quarter of the 4x4 pool.
    target = np.zeros((1, 4, 4, 3), np.float32)
    corner = target.copy()
    corner[:, :2, :2] = 1
    # Its opposite corner cancels it in the 4x4 pool alone.
    both = corner.copy()
    both[:, 2:, 2:] = -1
    np.testing.assert_allclose(pooled(corner, target), (1 / 4 + 1 / 4) / 2)
    np.testing.assert_allclose(pooled(both, target), (1 / 2 + 0) / 2)


@every_loss
@given(seed=seeds, order=st.permutations(range(3)))
def test_reordering_the_images_reorders_the_loss(loss, seed, order):
    prediction, target = images(seed)
    order = np.array(order)
    permuted = loss(prediction[order], target[order])
    np.testing.assert_allclose(permuted, loss(prediction, target)[order], rtol=1e-6)


@every_loss
@given(seed=seeds)
def test_a_loss_is_a_distance(loss, seed):
    prediction, target = images(seed)
    np.testing.assert_array_equal(loss(prediction, prediction), 0)
    np.testing.assert_allclose(
        loss(prediction, target), loss(target, prediction), rtol=1e-6
    )
    halfway = (prediction + target) / 2
    np.testing.assert_allclose(
        loss(prediction, halfway), loss(prediction, target) / 2, rtol=1e-5
    )


@every_loss
def test_nan_is_an_error(loss):
    prediction, target = images(0)
    spoiled = prediction.copy()
    spoiled[1, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(loss(spoiled, target)), [False, True, False])
    with pytest.raises(ValueError, match="`prediction` must be finite"):
        loss.__wrapped__(jnp.array(spoiled), jnp.array(target))


def test_images_too_small_are_refused():
    image = jnp.zeros((1, 6, 8, 3))
    with pytest.raises(ValueError, match="multiples of 4 to be pooled; got 6 x 8"):
        pooled_l1_loss(image, image)
    line = jnp.zeros((1, 1, 8, 3))
    with pytest.raises(ValueError, match=r"2 or more for pixels.*; got 1 x 8"):
        gradient_l1_loss(line, line)
