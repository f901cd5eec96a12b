"""Tokenizers on a frozen encoder: latents are features, or tell most of them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx import config
from vtp_eqx.models.arrays import encoder_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.adapter import adapt, adapted_config, AdapterConfig


SHAPE = config.TokenizerConfig(
    encoder=config.VIT_FEMTO,
    decoder=config.VIT_FEMTO,
    text=config.TextConfig(context=8, vocabulary=50, width=24, depth=1, num_heads=2),
    image_size=16,
    patch_size=4,
    latent_width=5,
    latent_norm="rms",
    heads_input="latent",
)
IDENTITY, LINEAR = AdapterConfig(kind="identity"), AdapterConfig(kind="linear")
WIDTH = SHAPE.encoder.width
IMAGES = np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def frozen():
    return eqx.filter_jit(Tokenizer)(SHAPE, key=jr.key(1))


@eqx.filter_jit
def features(tokenizer):
    images = jnp.asarray(IMAGES, jnp.float32) / 255
    patches = tokenizer.encoder.batch(tokenizer.normalize(images)).patches
    return patches.reshape(-1, WIDTH)


@eqx.filter_jit
def encoded(tokenizer):
    latents = jax.vmap(tokenizer.encode)(jnp.asarray(IMAGES, jnp.float32) / 255)
    return latents.reshape(-1, latents.shape[-1])


def test_features_are_latents_as_they_are(frozen):
    adapted = adapt(frozen, IDENTITY, IMAGES[:0])
    assert adapted.config == adapted_config(SHAPE, IDENTITY)
    assert (adapted.config.latent_width, adapted.config.text) == (WIDTH, None)
    assert eqx.tree_equal(adapted.encoder, frozen.encoder)
    np.testing.assert_allclose(encoded(adapted), features(frozen), rtol=1e-5, atol=1e-5)
    assert adapted.decode(jnp.zeros((4, 4, WIDTH))).shape == (16, 16, 3)


def test_no_linear_map_tells_more_of_the_features(frozen):
    adapted = adapt(frozen, LINEAR, IMAGES)
    assert adapted.config == adapted_config(SHAPE, LINEAR)
    latents, target = (
        np.asarray(part - part.mean(axis=0), np.float64)
        for part in (encoded(adapted), features(frozen))
    )
    back, *_ = np.linalg.lstsq(latents, target, rcond=None)
    lost = ((latents @ back - target) ** 2).sum()
    least = (np.linalg.svd(target, compute_uv=False)[SHAPE.latent_width :] ** 2).sum()
    assert lost == pytest.approx(least, rel=1e-3)
    assert least < 0.9 * (target**2).sum()
    assert np.mean(latents**2) == pytest.approx(1, rel=1e-3)


def test_features_of_several_blocks_can_be_latents(frozen):
    both = AdapterConfig(kind="identity", readout_layers=2)
    adapted = adapt(frozen, both, IMAGES[:0])
    assert adapted.config == adapted_config(SHAPE, both)
    image = jnp.asarray(IMAGES[0], jnp.float32) / 255
    first, last = (one.patches for one in frozen.features(image, 2))
    latents = adapted.encode(image).reshape(-1, WIDTH)
    np.testing.assert_allclose(latents, (first + last) / 2, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_adapted_is_refused(frozen):
    with pytest.raises(ValueError, match=r"^`images` \(1\) must be more"):
        adapt(frozen, LINEAR, IMAGES[:1])
    wide = dataclasses.replace(SHAPE, latent_width=WIDTH + 1)
    tokenizer = eqx.filter_jit(Tokenizer)(wide, key=jr.key(1))
    with pytest.raises(ValueError, match=r"^`latent_width` \(\d+\) of a linear"):
        adapt(tokenizer, LINEAR, IMAGES)


def test_shallow_and_deep_features_can_be_latents_beside_one_another(frozen):
    ends = AdapterConfig(kind="identity", readout_layers=2, readout="ends")
    adapted = adapt(frozen, ends, IMAGES[:0])
    assert adapted.config.latent_width == 2 * WIDTH
    image = jnp.asarray(IMAGES[0], jnp.float32) / 255
    shallow, deep = (one.patches for one in frozen.features(image, 2))
    latents = adapted.encode(image).reshape(-1, 2 * WIDTH)
    expected = jnp.concatenate([shallow, deep], axis=1)
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-4)


def test_a_linear_map_reads_both_ends(frozen):
    ends = AdapterConfig(kind="linear", readout_layers=2, readout="ends")
    adapted = adapt(frozen, ends, IMAGES)
    weight = adapted.bottleneck.weight
    assert weight.shape == (SHAPE.latent_width, 2 * WIDTH)
    assert (jnp.abs(weight).max(axis=0).reshape(2, WIDTH).max(axis=1) > 1e-3).all()
    latents = np.asarray(encoded(adapted))
    variance = np.mean((latents - latents.mean(axis=0)) ** 2)
    assert variance == pytest.approx(1, rel=1e-3)
    means = adapt(frozen, dataclasses.replace(ends, readout="mean"), IMAGES)
    assert encoder_hash(means) != encoder_hash(adapted)


def test_hashes_of_adapters_before_stay():
    assert config.short_hash(AdapterConfig(kind="identity", readout="mean")) == (
        "0ccc9d55bfa7"
    )
