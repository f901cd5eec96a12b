import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.nn.convolution import Convolution, max_pool, mean_pool


def test_a_convolution_by_hand():
    # Sums of neighbors to the left and right; outside the image there are zeros.
    weight = jnp.array([1.0, 0.0, 10.0]).reshape(1, 3, 1, 1)
    row = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    same = Convolution(weight, jnp.full(1, 0.5))(row)
    np.testing.assert_allclose(same.ravel(), [20.5, 31.5, 42.5, 3.5])
    valid = Convolution(weight, jnp.zeros(1), 1, "VALID")(row)
    np.testing.assert_allclose(valid.ravel(), [31, 42])
    strided = Convolution(weight, jnp.zeros(1), 2, "VALID")(row)
    np.testing.assert_allclose(strided.ravel(), [31])


def test_a_drawn_convolution_has_the_variance_asked_for(getkey):
    drawn = Convolution.drawn(64, 128, size=3, gain=2.0, key=getkey())
    np.testing.assert_allclose(jnp.var(drawn.weight), 4 / (9 * 64), rtol=0.02)
    assert (drawn.bias == 0).all()


def test_padding_is_never_the_largest(getkey):
    image = -1 - jr.uniform(getkey(), (4, 5, 2))
    pooled = max_pool(image, 3, 1, "SAME")
    assert pooled.shape == image.shape
    np.testing.assert_allclose(pooled[0, 0], image[:2, :2].max((0, 1)))
    np.testing.assert_allclose(max_pool(image, 2, 2)[1, 1], image[2:, 2:4].max((0, 1)))


def test_padding_is_left_out_of_means(getkey):
    image = jr.uniform(getkey(), (4, 5, 2))
    pooled = mean_pool(image, 3)
    np.testing.assert_allclose(pooled[0, 0], image[:2, :2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(pooled[1, 1], image[:3, :3].mean((0, 1)), rtol=1e-5)
