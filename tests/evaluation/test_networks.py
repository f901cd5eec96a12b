from pathlib import Path

import jax.numpy as jnp
import pytest

from vtp_eqx.evaluation.networks import (
    feature_network,
    FeatureNetwork,
    lpips,
    network_outputs,
    NetworkOutputs,
    scene_features,
)


def two_kinds(model, image):
    return NetworkOutputs(image[0, 0] * model, spatial=image[0].reshape(-1))


def test_a_network_says_what_it_has_and_nothing_else():
    network = FeatureNetwork(jnp.array(2.0), two_kinds, "dinov2", "aa", None)
    image = jnp.full((4, 4, 3), 0.25)
    seen = network_outputs(network, image)
    assert seen.keys() == {"features", "spatial"}
    assert seen["features"].tolist() == [0.5, 0.5, 0.5]


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


def test_a_network_of_others_needs_its_published_file(tmp_path):
    for name, weights, address in (
        ("inception-v3", tmp_path / "none.pth", "github.com/mseitzer/pytorch-fid"),
        ("inception-v3", None, "github.com/mseitzer/pytorch-fid"),
        ("dinov2", tmp_path / "dinov2_vits14_pretrain.pth", "dl.fbaipublicfiles.com"),
    ):
        with pytest.raises(FileNotFoundError, match=address):
            feature_network(name, weights)
    with pytest.raises(FileNotFoundError, match="vgg16"):
        lpips(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")


def test_weights_that_are_not_what_they_should_be_are_refused(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="sha256 6726825d"):
        feature_network("inception-v3", path)
    with pytest.raises(ValueError, match=r"dinov2_vitb14_pretrain\.pth"):
        feature_network("dinov2", Path("features.pth"))
    with pytest.raises(ValueError, match="leave them out"):
        feature_network("scene-network", path)
