import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.frozen.test_dinov2 import Case
from vtp_eqx.frozen.depth_features import DepthFeatures


def test_the_last_level_is_what_the_network_returns():
    network = Case("registers").network
    image = jr.uniform(jr.key(0), (28, 28, 3))
    found = DepthFeatures(network, 2, 28)(image)
    assert found.shape == (2, 4, 24)
    np.testing.assert_allclose(found[1], network(image).patches, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=0.1)


def test_levels_are_spread_over_the_depth():
    class Counting:
        depth, width, patch_size = 12, 1, 2

        def intermediate(self, image, last):
            patches = lambda block: jnp.full((4, 1), float(block))
            return [type("", (), {"patches": patches(n)}) for n in range(1, last + 1)]

    found = DepthFeatures(Counting(), 4, 4)(jnp.zeros((8, 8, 3)))
    np.testing.assert_array_equal(found[:, 0, 0], [3, 6, 9, 12])


def test_what_does_not_fit_the_network_is_refused():
    network = Case("plain").network
    with pytest.raises(ValueError, match=r"`num_levels` \(3\) must be 1 to 2"):
        DepthFeatures(network, 3, 28)
    with pytest.raises(ValueError, match=r"`side` \(32\) must be a multiple .* of 14"):
        DepthFeatures(network, 2, 32)
