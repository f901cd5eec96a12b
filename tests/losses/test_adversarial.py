from hypothesis import given, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.adversarial import (
    generator_loss,
    hinge_discriminator_loss,
    lecam_loss,
)


REAL = jnp.array([[[2.0, 0.0]], [[-1.0, 0.5]]])
FAKE = jnp.array([[[-3.0, 0.0]], [[1.0, -0.5]]])


def test_by_hand():
    # Of real: hinges 0, 1 and 2, 0.5; of fake: 0, 1 and 2, 0.5.
    np.testing.assert_allclose(hinge_discriminator_loss(REAL, FAKE), [0.5, 1.25])
    np.testing.assert_allclose(generator_loss(FAKE), [1.5, -0.25])


def test_lecam_by_hand():
    # Above the fake mean of -1: 3, 1; 0, 1.5. Below the real mean of 1: 4, 1; 0, 1.5.
    means = dict(real_mean=jnp.float32(1), fake_mean=jnp.float32(-1))
    loss = lecam_loss(REAL, FAKE, **means)
    squares = [(9 + 1) / 2 + (16 + 1) / 2, (0 + 2.25) / 2 + (0 + 2.25) / 2]
    np.testing.assert_allclose(loss, squares)


@given(seed=st.integers(0, 2**31 - 1), order=st.permutations(range(4)))
def test_reordering_the_images_reorders_the_losses(seed, order):
    real, fake = jnp.asarray(np.random.default_rng(seed).standard_normal((2, 4, 3)))
    order, zero = np.array(order), jnp.zeros(())
    for loss in (
        hinge_discriminator_loss,
        lambda real, fake: generator_loss(fake),
        lambda real, fake: lecam_loss(real, fake, real_mean=zero, fake_mean=zero),
    ):
        np.testing.assert_array_equal(
            loss(real[order], fake[order]), loss(real, fake)[order]
        )


def test_nan_is_an_error():
    with pytest.raises(ValueError, match="`fake` must be finite"):
        generator_loss(FAKE.at[0, 0, 0].set(jnp.nan))
