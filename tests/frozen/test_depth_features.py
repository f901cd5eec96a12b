import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest

from tests.frozen.test_dinov2 import Case
from vtp_eqx.config import TokenizerConfig, TransformerConfig
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.models.tokenizer import Tokenizer


def test_the_last_level_is_what_the_network_returns():
    network = Case("registers").network
    image = jr.uniform(jr.key(0), (28, 28, 3))
    found = DepthFeatures(network, 2, 28)(image)
    assert found.shape == (2, 4, 24)
    np.testing.assert_allclose(found[1], network(image).patches, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=0.1)


def test_levels_are_spread_over_the_depth():
    shape = TransformerConfig(width=16, depth=12, num_heads=2)
    config = TokenizerConfig(
        encoder=shape, decoder=shape, image_size=8, patch_size=4, latent_width=4
    )
    network = FrozenEncoder.of(eqx.filter_jit(Tokenizer)(config, key=jr.key(0)))
    image = jr.uniform(jr.key(1), (16, 16, 3))
    found = DepthFeatures(network, 4, 8)(image)
    resized = jax.image.resize(image, (8, 8, 3), "bilinear", antialias=True)
    blocks = [features.patches for features in network.intermediate(resized, 12)]
    np.testing.assert_array_equal(
        found, [blocks[number - 1] for number in (3, 6, 9, 12)]
    )


def test_what_does_not_fit_the_network_is_refused():
    network = Case("plain").network
    with pytest.raises(ValueError, match=r"`num_levels` \(3\) must be 1 to 2"):
        DepthFeatures(network, 3, 28)
    with pytest.raises(ValueError, match=r"`side` \(32\) must be a multiple .* of 14"):
        DepthFeatures(network, 2, 32)
