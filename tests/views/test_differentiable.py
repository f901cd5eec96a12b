import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import AugmentConfig
from vtp_eqx.views.differentiable import augment, NUM_DRAWS, round_to_bytes


NONE = AugmentConfig(color=False, translation=0.0)
DRAWS = jnp.full(NUM_DRAWS, 0.5)
ROW = jnp.arange(1.0, 5)[None, :, None] + jnp.zeros((4, 4, 3))


@pytest.mark.parametrize(
    ("draw", "moved"), [(0.0, [0, 1, 2, 3]), (0.5, [1, 2, 3, 4]), (0.99, [2, 3, 4, 0])]
)
def test_an_image_is_moved_and_gray_comes_in(draw, moved):
    config = dataclasses.replace(NONE, translation=0.25)
    found = augment(ROW, config, DRAWS.at[4].set(draw))
    np.testing.assert_array_equal(found[1, :, 0], moved)


def test_a_hole_is_gray():
    config = dataclasses.replace(NONE, cutout=0.5)
    hole = augment(ROW, config, DRAWS)[..., 0] == 0
    expected = np.zeros((4, 4), bool)
    expected[1:3, 1:3] = True
    np.testing.assert_array_equal(hole, expected)
    # In the corner, three quarters of it are outside.
    assert (augment(ROW, config, DRAWS * 0)[..., 0] == 0).sum() == 1


def test_colors_by_hand():
    config = dataclasses.replace(NONE, color=True)
    image = jnp.zeros((1, 2, 3)).at[0, 0].set(jnp.array([0.3, 0.0, -0.3]))
    # The middle of all draws changes nothing.
    np.testing.assert_allclose(augment(image, config, DRAWS), image, atol=1e-7)
    brighter = augment(image, config, DRAWS.at[0].set(0.75))
    np.testing.assert_allclose(brighter, image + 0.25, atol=1e-6)
    np.testing.assert_allclose(augment(image, config, DRAWS.at[1].set(0)), 0, atol=1e-7)
    lower = augment(image, config, DRAWS.at[2].set(0))
    np.testing.assert_allclose(lower, image / 2, atol=1e-7)


def test_so_many_images_are_changed_as_the_rate_says():
    config = dataclasses.replace(NONE, translation=0.25, cutout=0.5, rate=0.25)
    draws = jr.uniform(jr.key(0), (1000, NUM_DRAWS))
    found = jax.jit(jax.vmap(lambda draws: augment(ROW, config, draws)))(draws)
    changed = (found != ROW).any((1, 2, 3))
    np.testing.assert_array_equal(changed[draws[:, 7] >= 0.25], False)
    assert changed.mean() == pytest.approx(0.25, abs=0.04)
    off = dataclasses.replace(AugmentConfig(), rate=0.0)
    np.testing.assert_array_equal(augment(ROW, off, draws[0]), ROW)


def test_gradients_pass():
    config = AugmentConfig(cutout=0.25)
    loss = lambda image: jnp.sum(augment(image, config, DRAWS * 0.9) ** 2)
    slope = jax.jit(jax.grad(loss))(ROW)
    assert np.isfinite(slope).all()
    assert (slope != 0).mean() > 0.3


def test_bytes_are_rounded_and_slopes_are_those_of_clipping():
    values = jnp.array([-0.1, 0.5, 0.3019, 1.2])
    np.testing.assert_allclose(
        round_to_bytes(values) * 255, [0, 128, 77, 255], rtol=1e-6
    )
    slope = jax.grad(lambda values: round_to_bytes(values).sum())(values)
    np.testing.assert_array_equal(slope, [0, 1, 1, 0])
