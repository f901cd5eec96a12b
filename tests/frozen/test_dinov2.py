"""DINOv2, held to numbers of its own code.

Cases: facebookresearch/dinov2 b8931f7, float32, tiny width, random weights; `plain` is
built as models without registers are published, `registers` as those with, and with
the feed-forward layer of the largest.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.frozen.dinov2 import (
    BY_FILE,
    DinoV2,
    dinov2_from_published,
    DinoV2Config,
    load_dinov2,
    PublishedDinoV2,
)
from vtp_eqx.frozen.weights import network_hash


GOLDEN = Path(__file__).parents[1] / "golden"
TINY = dict(width=24, depth=2, num_heads=2, grid_size=3)
CONFIGS = {
    "plain": DinoV2Config(**TINY),
    "registers": DinoV2Config(**TINY, num_registers=2, feed_forward="swiglu"),
}
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


class Case:
    def __init__(self, name):
        self.path = GOLDEN / f"dinov2_{name}" / "model.safetensors"
        self.config = CONFIGS[name]
        self.tensors = load_file(self.path)
        self.network = dinov2_from_published(self.tensors, self.config)
        self.numbers = load_file(self.path.with_name("io.safetensors"))


@pytest.fixture(scope="module", params=[*CONFIGS])
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("size", ["42x42", "28x70", "84x56"])
def test_features_agree_on_the_grid_of_the_positions_and_on_others(case, size):
    image = jnp.asarray(case.numbers[f"image_{size}"])
    features = eqx.filter_jit(case.network)(image)
    np.testing.assert_allclose(features.cls, case.numbers[f"cls_{size}"], **TOLERANCE)
    np.testing.assert_allclose(
        features.patches, case.numbers[f"patches_{size}"], **TOLERANCE
    )


def test_features_of_the_distance_agree(case):
    image = jnp.asarray(case.numbers["image_resized"])
    features = eqx.filter_jit(DinoV2.distance_features)(case.network, image)
    np.testing.assert_allclose(features, case.numbers["features_resized"], **TOLERANCE)


def test_every_weight_is_read(case):
    image = jnp.asarray(case.numbers["image_28x70"])

    @eqx.filter_jit
    @eqx.filter_grad
    def gradients(network):
        features = network(image)
        return jnp.sum(features.cls**3) + jnp.sum(features.patches**3)

    leaves = jax.tree.leaves(gradients(case.network))
    assert all((leaf != 0).any() for leaf in leaves if leaf.size)


def test_a_tensor_too_few_or_too_many_is_named(case):
    rest = {k: v for k, v in case.tensors.items() if k != "blocks.1.ls2.gamma"}
    with pytest.raises(ValueError, match=r"blocks\.1\.ls2\.gamma"):
        dinov2_from_published(rest, case.config)
    more = case.tensors | {"blocks.2.ls2.gamma": case.tensors["blocks.1.ls2.gamma"]}
    with pytest.raises(ValueError, match=r"blocks\.2\.ls2\.gamma"):
        dinov2_from_published(more, case.config)


def test_a_size_that_the_patch_does_not_divide_is_an_error(case):
    with pytest.raises(ValueError, match="multiples"):
        case.network(jnp.zeros((30, 42, 3)))


def test_files_of_ones_own_are_read_only_when_asked_for(case):
    published = PublishedDinoV2(case.config, BY_FILE["dinov2_vits14_pretrain.pth"].file)
    with pytest.raises(ValueError, match=published.file.digest):
        load_dinov2(case.path, published)
    loaded = load_dinov2(case.path, published, check=False)
    assert network_hash(loaded) == network_hash(case.network)
    assert loaded.origin == "unchecked model.safetensors"


def test_published_models_have_the_number_of_weights_they_are_known_for():
    # facebookresearch/dinov2 gives 21, 86, 300 and 1,100 million.
    for size, millions in {"s": 21, "b": 86, "l": 300, "g": 1100}.items():
        for suffix in ("", "_reg4"):
            config = BY_FILE[f"dinov2_vit{size}14{suffix}_pretrain.pth"].config
            skeleton = eqx.filter_eval_shape(DinoV2, config, key=jax.random.key(0))
            count = sum(leaf.size for leaf in jax.tree.leaves(skeleton))
            assert abs(count / (1e6 * millions) - 1) < 0.06


def test_published_files_are_named_as_published():
    file = BY_FILE["dinov2_vitb14_reg4_pretrain.pth"].file
    assert file.address == (
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/"
        "dinov2_vitb14_reg4_pretrain.pth"
    )
    digests = {published.file.digest for published in BY_FILE.values()}
    assert len(digests) == 8
    assert all(len(digest) == 64 for digest in digests)
