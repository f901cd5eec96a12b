import jax.numpy as jnp
import pytest

from vtp_eqx.evaluation.networks import (
    FeatureNetwork,
    scene_features,
    see,
    Seen,
    seen_by,
)


def two_kinds(model, image):
    return Seen(image[0, 0] * model, spatial=image[0].reshape(-1))


def test_a_network_says_what_it_has_and_nothing_else():
    network = FeatureNetwork(jnp.array(2.0), two_kinds, "dinov2", "aa", None)
    image = jnp.full((4, 4, 3), 0.25)
    seen = see(network, image)
    assert seen.keys() == {"features", "spatial"}
    assert seen["features"].tolist() == [0.5, 0.5, 0.5]
    assert seen_by(network, 4) == ["features", "spatial"]


def test_a_network_of_one_size_refuses_others():
    network = scene_features()
    network.check_size(32)
    with pytest.raises(ValueError, match=r"32 x 32 pixels; got 64 x 64"):
        network.check_size(64)
    FeatureNetwork(None, two_kinds, "inception-v3", "aa", None).check_size(64)


def test_the_scene_network_has_features_of_its_hash():
    network = scene_features()
    assert network(jnp.zeros((32, 32, 3))).features.shape == (128,)
    assert len(network.hash) == 64
    assert network.name == "scene-network"
