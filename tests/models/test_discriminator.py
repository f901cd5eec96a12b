"""PatchGAN, held to numbers of its own layout in torch, and heads on features."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.config import DiscriminatorConfig
from vtp_eqx.mesh import DATA, data_mesh, REPLICATED, SPLIT
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.models.discriminator import FeatureDiscriminator, PatchDiscriminator


GOLDEN = Path(__file__).parents[1] / "golden" / "discriminator"
PATCH = DiscriminatorConfig(width=8)
HEADS = DiscriminatorConfig(kind="features", kernel=3)
LAYERS = (0, 2, 5, 8)  # in the published list, of convolutions; norms follow them


def published(tensors):
    """The network of a published state dict in training mode."""
    names = {"main.11": "to_logits"}
    for number, layer in enumerate(LAYERS):
        names[f"main.{layer}"] = f"layers.{number}.convolution"
        if layer:
            names[f"main.{layer + 1}"] = f"layers.{number}.norm"
    arrays = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        is_matrix = tensor.ndim == 4
        arrays[f"{names[layer]}.{kind}"] = (
            tensor.transpose(2, 3, 1, 0) if is_matrix else tensor
        )
    skeleton = eqx.filter_eval_shape(PatchDiscriminator, PATCH, key=jr.key(0))
    assert arrays.keys() == named_arrays(skeleton).keys()
    return with_arrays(skeleton, arrays)


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def patch():
    return published(load_file(GOLDEN / "model.safetensors"))


@eqx.filter_jit
def logits(network, rows):
    return network(rows)


def test_logits_agree_with_the_published_network(patch, golden):
    found = logits(patch, jnp.asarray(golden["images"]))
    np.testing.assert_allclose(found, golden["logits"], rtol=1e-4, atol=1e-4)


def test_images_too_small_are_refused(patch):
    with pytest.raises(ValueError, match="sides of 24 or more; got 16 x 16: lower"):
        patch(jnp.zeros((1, 16, 16, 3)))


def made(config):
    """A small discriminator of each kind and something for it to see, 8 images."""
    if config.kind == "patch":
        network = eqx.filter_jit(PatchDiscriminator)(config, key=jr.key(0))
        return network, jr.normal(jr.key(1), (8, 24, 24, 3))
    network = eqx.filter_jit(FeatureDiscriminator)(config, 6, 2, key=jr.key(0))
    return network, jr.normal(jr.key(1), (8, 2, 5, 6))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("config", [PATCH, HEADS], ids=lambda config: config.kind)
def test_logits_do_not_depend_on_devices(config, norm):
    network, rows = made(dataclasses.replace(config, norm=norm))
    alone = logits(network, rows)
    assert np.std(alone) > 0
    shared = jax.jit(
        jax.shard_map(
            lambda network, rows: network(rows, axis_name=DATA),
            mesh=data_mesh(4), in_specs=(REPLICATED, SPLIT), out_specs=SPLIT,
        )
    )(network, rows)  # fmt: skip
    np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-5)
    # By groups of channels, an image is seen by itself; by batches it is not.
    is_same = np.allclose(logits(network, rows[:4]), alone[:4], rtol=1e-4, atol=1e-5)
    assert is_same == (norm == "group")


def test_spectral_norms_become_1():
    network, _ = made(HEADS)
    for _ in range(50):
        network = network.updated()
    head = jax.tree.map(lambda leaf: leaf[1], network.heads)
    # What it does to a token that repeats along the ring is the sum of its taps.
    for layer, taps in ((head.mix, 1), (head.spread, 3), (head.to_logits, 1)):
        matrix = np.asarray(layer.weight).reshape(-1, layer.weight.shape[-1])
        largest = np.linalg.svd(matrix, compute_uv=False)[0]
        tokens = jr.normal(jr.key(2), (5, matrix.shape[0] // taps))
        ring = np.concatenate(
            [np.roll(tokens, taps // 2 - n, 0) for n in range(taps)], 1
        )
        np.testing.assert_allclose(
            layer(tokens), ring @ matrix / largest, rtol=1e-4, atol=1e-6
        )


def test_a_direction_has_no_gradient():
    network, rows = made(HEADS)
    loss = lambda network, rows: jnp.sum(network(rows) ** 2)
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(network, rows)
    slopes = named_arrays(gradient)
    directions = [name for name in slopes if name.endswith("direction")]
    assert len(directions) == 3
    for name, slope in slopes.items():
        assert (slope != 0).any() == (name not in directions), name
