import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import decoder_like, TokenizerConfig, TransformerConfig
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.patches import patchify
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.training.pca_start import start_from_pca


ENCODER = TransformerConfig(width=48, depth=2, num_heads=2)
CONFIG = TokenizerConfig(
    encoder=ENCODER,
    decoder=decoder_like(ENCODER),
    image_size=32,
    patch_size=4,
    latent_width=8,
)


@pytest.fixture(scope="module")
def scenes():
    return render(SceneConfig(), np.arange(96)).image


@functools.cache
def untrained(config):
    return eqx.filter_jit(Tokenizer)(config, key=jr.key(0))


@pytest.fixture(scope="module")
def solved(scenes):
    return start_from_pca(untrained(CONFIG), scenes[:64])


def pca_reconstruction(patches, num_components):
    """`patches` rebuilt from their mean and first principal components."""
    values = np.asarray(patches, np.float64)
    mean = values.mean(axis=0)
    basis = np.linalg.svd(values - mean, full_matrices=False)[2][:num_components]
    return mean + (values - mean) @ basis.T @ basis


def decibels(found, wanted):
    return float(-10 * np.log10(np.mean((np.asarray(found) - np.asarray(wanted)) ** 2)))


@eqx.filter_jit
def through(tokenizer, images):
    return jax.vmap(lambda image: tokenizer.decode(tokenizer.encode(image)))(images)


def rebuilt_decibels(tokenizer, images):
    """Of images in [0, 1], through the tokenizer and through as many components."""
    unit = jnp.asarray(images, jnp.float32) / 255
    # In parts of one size, which compile once.
    parts = np.split(np.asarray(unit), len(unit) // 16)
    rebuilt = np.concatenate([through(tokenizer, part) for part in parts])
    cut = jax.vmap(lambda image: patchify(image, CONFIG.patch_size))
    patches = cut(unit).reshape(-1, 3 * CONFIG.patch_size**2)
    linear = pca_reconstruction(patches, CONFIG.latent_width)
    return decibels(rebuilt, unit), decibels(linear, patches)


def test_reconstruction_starts_where_principal_components_are(solved, scenes):
    ours, linear = rebuilt_decibels(solved, scenes[:64])
    assert ours > linear - 0.5


def test_and_so_it_does_on_images_it_was_not_solved_on(solved, scenes):
    ours, linear = rebuilt_decibels(solved, scenes[64:])
    assert ours > linear - 1.0


def test_a_random_start_is_far_from_it(scenes):
    ours, linear = rebuilt_decibels(untrained(CONFIG), scenes[:16])
    assert ours < linear - 5


def test_latents_start_at_a_variance_of_1(solved, scenes):
    unit = jnp.asarray(scenes[:64], jnp.float32) / 255
    latents = np.asarray(jax.jit(jax.vmap(solved.encode))(unit)).reshape(-1, 8)
    np.testing.assert_allclose(latents.var(axis=0).mean(), 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(decoder=TransformerConfig(width=8, depth=1, num_heads=2)),
            "width of the latent's and 2 more; got 8 for 8",
        ),
        (dict(patch_size=1), "got 8 channels for 3 values and a width of 48"),
        (dict(latent_width=48, patch_size=8,
              encoder=TransformerConfig(width=16, depth=1, num_heads=2)),
         "got 48 channels for 192 values and a width of 16"),
    ],
)  # fmt: skip
def test_what_is_too_narrow_is_refused(changes, message, scenes):
    config = dataclasses.replace(CONFIG, **changes)
    tokenizer = untrained(config)
    with pytest.raises(ValueError, match=message):
        start_from_pca(tokenizer, scenes[:16])


def test_too_few_patches_are_refused(scenes):
    tokenizer = untrained(CONFIG)
    with pytest.raises(ValueError, match="several patches for each feature; got 1 im"):
        start_from_pca(tokenizer, scenes[:1])
