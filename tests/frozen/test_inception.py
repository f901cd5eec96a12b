"""Inception, held to numbers of mseitzer/pytorch-fid (see the golden case)."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.frozen.inception import (
    INCEPTION,
    inception_from_published,
    load_inception,
    name_table,
    preprocessed,
)
from vtp_eqx.frozen.weights import network_hash


GOLDEN = Path(__file__).parents[1] / "golden" / "inception" / "io.safetensors"


@pytest.fixture(scope="module")
def tensors(formula):
    made = {}
    for k, (name, tensor) in enumerate(sorted(name_table().shapes().items())):
        shape = tensor.shape
        values = formula(shape, k)
        if name.endswith("conv.weight"):
            values *= (6 / np.prod(shape[1:])) ** 0.5
        elif name.endswith("bn.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("running_var"):
            values = 1 + 0.5 * values
        else:
            values *= shape[1] ** -0.5 if name == "fc.weight" else 0.1
        made[name] = values.astype(np.float32)
    return made


@pytest.fixture(scope="module")
def network(tensors):
    return inception_from_published(tensors)


def test_features_spatial_features_and_logits_agree(network, formula):
    golden = load_file(GOLDEN)
    image = jnp.asarray(formula((48, 64, 3), 1000) / 2 + 0.5, jnp.float32)
    reading = eqx.filter_jit(network)(image)
    for name, published in golden.items():
        scale = np.abs(published).max()
        found = getattr(reading, name)
        np.testing.assert_allclose(found, published, atol=1e-5 * scale, err_msg=name)


def test_the_shapes_of_a_reading_are_those_of_the_distances(network):
    image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    reading = eqx.filter_eval_shape(network, image)
    shapes = [
        part.shape for part in (reading.features, reading.spatial, reading.logits)
    ]
    assert shapes == [(2048,), (17 * 17 * 7,), (1008,)]


def test_an_image_of_the_right_side_is_only_scaled():
    image = jnp.linspace(0, 1, 299 * 299 * 3).reshape(299, 299, 3)
    np.testing.assert_allclose(
        preprocessed(image, "pytorch-fid"), 2 * image - 1, atol=1e-6
    )
    np.testing.assert_allclose(
        preprocessed(image, "tensorflow"), (255 * image - 128) / 128, atol=1e-6
    )


def test_the_two_resizes_by_hand():
    # Two columns, 0 and 1, become 299 of 2 / 299 each: the middle of column 100 lies at
    # 100.5 * 2 / 299 - 0.5, its left edge at 100 * 2 / 299.
    image = jnp.broadcast_to(jnp.array([0.0, 1.0])[None, :, None], (2, 2, 3))
    centered = (preprocessed(image, "pytorch-fid")[7, :, 0] + 1) / 2
    cornered = (128 * preprocessed(image, "tensorflow")[7, :, 0] + 128) / 255
    np.testing.assert_allclose(centered[100], 100.5 * 2 / 299 - 0.5, atol=1e-6)
    np.testing.assert_allclose(cornered[100], 100 * 2 / 299, atol=1e-6)
    np.testing.assert_allclose(centered[jnp.array([0, 298])], [0, 1], atol=1e-6)
    np.testing.assert_allclose(cornered[jnp.array([0, 298])], [0, 1], atol=1e-6)


def test_files_of_ones_own_are_read_only_when_asked_for(tensors, network, tmp_path):
    path = tmp_path / "own.safetensors"
    # What training left, and the bias that the score leaves out, may be there too.
    extra = {
        "fc.bias": np.zeros(1008, np.float32),
        "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(1, np.int64),
    }
    save_file(tensors | extra, path)
    with pytest.raises(ValueError, match=INCEPTION.digest):
        load_inception(path)
    loaded = load_inception(path, check=False)
    assert network_hash(loaded) == network_hash(network)
    assert loaded.origin == "unchecked own.safetensors"


def test_a_missing_tensor_is_named(tensors):
    name = "Mixed_7c.branch3x3dbl_3b.bn.running_var"
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(ValueError, match=name):
        inception_from_published(rest)
