"""LPIPS, held to numbers of the published code (MiniMax-AI/VTP 5ce1eb6, float32)."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.frozen.lpips import (
    blank_perceptual,
    load_perceptual,
    LPIPS,
    perceptual_from_published,
    STAGES,
    VGG16,
)
from vtp_eqx.frozen.weights import network_hash


LAYERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


@pytest.fixture(scope="module")
def tensors(formula):
    vgg, lpips, in_width = {}, {}, 3
    widths = [width for stage in STAGES for width in stage]
    for j, (layer, width) in enumerate(zip(LAYERS, widths, strict=True)):
        weight = formula((width, in_width, 3, 3), j + 1) * (6 / (9 * in_width)) ** 0.5
        vgg[f"features.{layer}.weight"] = weight.astype(np.float32)
        bias = formula((width,), 100 + j) * 0.05
        vgg[f"features.{layer}.bias"] = bias.astype(np.float32)
        in_width = width
    for j, stage in enumerate(STAGES):
        weight = np.abs(formula((1, stage[-1], 1, 1), 200 + j))
        lpips[f"lin{j}.model.1.weight"] = weight.astype(np.float32)
    return vgg, lpips


@pytest.fixture(scope="module")
def network(tensors):
    return perceptual_from_published(*tensors)


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[1] / "golden" / "lpips" / "io.safetensors"
    arrays = load_file(path)
    images = {
        name: jnp.asarray((arrays[name].transpose(0, 2, 3, 1) + 1) / 2)
        for name in ("image_a", "image_b")
    }
    # Published for images in [-1, 1], which are twice as far apart.
    gradient = 2 * arrays["grad_b"].transpose(0, 2, 3, 1)
    return images["image_a"], images["image_b"], arrays["lpips"], gradient


@pytest.fixture(scope="module")
def judged():
    """Distances and their gradients for two batches of images."""

    @eqx.filter_jit
    def judge(network, images, others):
        return jax.vmap(jax.value_and_grad(network, argnums=1))(images, others)

    return judge


def test_distance_and_gradient_agree_with_the_published_code(judged, network, golden):
    image, other, distance, gradient = golden
    found, slope = judged(network, image, other)
    np.testing.assert_allclose(found, distance, rtol=1e-5)
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=1e-4 * scale)


def test_equal_images_are_at_no_distance_and_a_flat_slope(judged, network, golden):
    image, _, _, _ = golden
    flat = jnp.stack([image[0], jnp.zeros_like(image[0])])
    found, slope = judged(network, flat, flat)
    np.testing.assert_allclose(found, 0, atol=1e-12)
    np.testing.assert_allclose(slope, 0, atol=1e-9)


def test_the_two_images_may_be_swapped(judged, network, golden):
    image, other, distance, _ = golden
    np.testing.assert_allclose(judged(network, other, image)[0], distance, rtol=1e-5)


def test_a_place_where_nothing_is_active_has_a_finite_slope(judged, tensors, golden):
    vgg, lpips = tensors
    dead = vgg | {"features.28.bias": np.full(512, -1e6, np.float32)}
    found, slope = judged(perceptual_from_published(dead, lpips), *golden[:2])
    assert np.isfinite(found).all()
    assert np.isfinite(slope).all()


def test_an_image_that_would_vanish_is_an_error(network):
    with pytest.raises(ValueError, match="8 x 32"):
        network(jnp.zeros((8, 32, 3)), jnp.zeros((8, 32, 3)))


def test_files_of_ones_own_are_read_only_when_asked_for(tensors, network, tmp_path):
    vgg, lpips = tensors
    classifier = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    save_file(vgg | classifier, tmp_path / "vgg16.safetensors")
    np.savez(tmp_path / "lpips.npz", **lpips)
    paths = tmp_path / "vgg16.safetensors", tmp_path / "lpips.npz"
    with pytest.raises(ValueError, match=VGG16.digest):
        load_perceptual(*paths)
    loaded = load_perceptual(*paths, check=False)
    assert network_hash(loaded) == network_hash(network)
    assert loaded.origin == "unchecked vgg16.safetensors, unchecked lpips.npz"


def test_a_missing_file_is_named_with_its_address(tmp_path):
    with pytest.raises(FileNotFoundError, match=VGG16.address):
        load_perceptual(tmp_path / "none", tmp_path / "none")
    assert LPIPS.algorithm == "md5"


def test_another_tensor_is_an_error(tensors):
    vgg, lpips = tensors
    with pytest.raises(ValueError, match=r"features\.30\.weight"):
        perceptual_from_published(
            vgg | {"features.30.weight": vgg["features.0.bias"]}, lpips
        )
    with pytest.raises(ValueError, match=r"lin4\.model\.1\.weight"):
        perceptual_from_published(vgg, {k: v for k, v in lpips.items() if k[3] != "4"})
    wrong = lpips | {"lin0.model.1.weight": np.zeros((1, 32, 1, 1), np.float32)}
    with pytest.raises(ValueError, match=r"\(1, 32, 1, 1\) for \(1, 64, 1, 1\)"):
        perceptual_from_published(vgg, wrong)


def test_a_blank_network_has_the_shapes_of_the_real_one(network):
    shapes = lambda model: [leaf.shape for leaf in jax.tree.leaves(model)]
    assert shapes(blank_perceptual()) == shapes(network)


def test_in_bfloat16_the_distance_is_nearly_the_same(network, golden):
    coarse = eqx.tree_at(
        lambda model: (model.stages, model.channel_weights), network,
        jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16),
            (network.stages, network.channel_weights),
        ),
    )  # fmt: skip
    image, other = golden[0][0], golden[1][0]
    found, exact = (eqx.filter_jit(model)(image, other) for model in (coarse, network))
    assert found.dtype == jnp.float32
    # Thirteen layers of 8 bits each.
    assert found == pytest.approx(float(exact), rel=0.02)
