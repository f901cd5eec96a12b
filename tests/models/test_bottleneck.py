import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import (
    decoder_like,
    short_hash,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.interop.diffusers.settings import config_to_diffusers
from vtp_eqx.interop.vtp.settings import config_to_published
from vtp_eqx.models.arrays import encoder_hash, named_arrays
from vtp_eqx.models.bottleneck import Bottleneck
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.tokenizer import load, save


SHAPE = TransformerConfig(width=16, depth=0, num_heads=2)
PLAIN = TokenizerConfig(
    encoder=SHAPE, decoder=decoder_like(SHAPE), image_size=32, latent_width=8
)
GUARDED = dataclasses.replace(PLAIN, latent_norm="rms")


@pytest.fixture(scope="module")
def both():
    return tuple(
        eqx.filter_jit(Tokenizer)(config, key=jr.key(0)) for config in (PLAIN, GUARDED)
    )


def test_a_guarded_latent_has_a_root_mean_square_of_one_at_any_scale():
    plain, guarded = (Bottleneck(config, key=jr.key(1)) for config in (PLAIN, GUARDED))
    features = jr.normal(jr.key(2), (5, 16))
    latents = guarded(features)
    np.testing.assert_allclose(jnp.mean(latents**2, axis=-1), 1, rtol=1e-3)
    np.testing.assert_allclose(guarded(10 * features), latents, rtol=1e-3)
    np.testing.assert_allclose(plain(10 * features), 10 * plain(features), rtol=1e-4)
    # To grow teaches nothing: the gradient is across the latents.
    large = 100 * features
    wanted = jr.normal(jr.key(3), latents.shape)
    slope = jax.grad(lambda scale: jnp.sum(wanted * guarded(scale * large)))(1.0)
    assert abs(float(slope)) < 1e-3


def test_a_guard_changes_latents_and_their_hash_but_no_array(both):
    plain, guarded = both
    assert named_arrays(plain).keys() == named_arrays(guarded).keys()
    assert encoder_hash(plain) != encoder_hash(guarded)
    image = jr.uniform(jr.key(4), (32, 32, 3))
    latents = guarded.encode(image)
    np.testing.assert_allclose(jnp.mean(latents**2, axis=-1), 1, rtol=1e-3)
    raw = plain.encode(image)
    scale = jnp.sqrt(jnp.mean(raw**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(latents, raw / scale, rtol=1e-4)


def test_it_is_saved_and_found_again_but_never_published(both, tmp_path):
    _, guarded = both
    save(guarded, tmp_path)
    found = load(tmp_path)
    assert found.config.latent_norm == "rms"
    assert eqx.tree_equal(found, guarded)
    with pytest.raises(ValueError, match=r"^`latent_norm` is none .* got rms"):
        config_to_published(GUARDED)


DEEP = dataclasses.replace(
    PLAIN,
    encoder=dataclasses.replace(SHAPE, depth=2, init="clip"),
    heads_input="latent",
)
FUSED = dataclasses.replace(DEEP, readout_layers=2)


@pytest.fixture(scope="module")
def last_and_fused():
    return tuple(
        eqx.filter_jit(Tokenizer)(config, key=jr.key(0)) for config in (DEEP, FUSED)
    )


def test_latents_and_heads_read_the_last_blocks_where_asked(last_and_fused):
    last, fused = last_and_fused
    image = jr.uniform(jr.key(4), (32, 32, 3))
    first, second = last.features(image, 2)
    read = fused.bottleneck((first.patches + second.patches) / 2)
    latents = fused.encode(image)
    np.testing.assert_allclose(latents.reshape(-1, 8), read, rtol=1e-4, atol=1e-5)
    assert not np.allclose(latents, last.encode(image), atol=1e-3)

    @eqx.filter_jit
    def heads(tokenizer):
        pixels = tokenizer.normalize(image)[None]
        return tokenizer.head_features(tokenizer.encoder.batch(pixels))

    np.testing.assert_allclose(heads(fused).patches[0], read, rtol=1e-4, atol=1e-5)
    full = dataclasses.replace(FUSED, heads_input="full")
    patches = heads(eqx.filter_jit(Tokenizer)(full, key=jr.key(0))).patches[0]
    np.testing.assert_allclose(patches, second.patches, rtol=1e-4, atol=1e-5)


def test_what_is_read_is_of_the_latents_hash_and_of_no_config_before(last_and_fused):
    last, fused = last_and_fused
    assert named_arrays(last).keys() == named_arrays(fused).keys()
    assert encoder_hash(last) != encoder_hash(fused)
    assert short_hash(dataclasses.replace(FUSED, readout_layers=1)) == short_hash(DEEP)
    assert short_hash(FUSED) != short_hash(DEEP)


def test_fused_latents_are_saved_and_never_published(last_and_fused, tmp_path):
    _, fused = last_and_fused
    save(fused, tmp_path)
    found = load(tmp_path)
    assert found.encoder.readout_layers == 2
    assert eqx.tree_equal(found, fused)
    with pytest.raises(ValueError, match=r"^`readout_layers` is 1 in the published"):
        config_to_published(dataclasses.replace(FUSED, patch_size=16))
    with pytest.raises(ValueError, match=r"^`readout_layers` is 1 in the PyTorch file"):
        config_to_diffusers(FUSED)
    assert "readout_layers" not in config_to_diffusers(DEEP)
    ends = dataclasses.replace(FUSED, readout="ends")
    assert (ends.readout_width, FUSED.readout_width) == (2 * SHAPE.width, SHAPE.width)
    assert short_hash(ends) != short_hash(FUSED)
    assert "readout" not in config_to_diffusers(DEEP)
    with pytest.raises(ValueError, match=r"^`readout_layers` is 1 in the PyTorch file"):
        config_to_diffusers(ends)
    with pytest.raises(ValueError, match=r"^`readout` \('ends'\) takes .* is 1: raise"):
        dataclasses.replace(DEEP, readout="ends")
    with pytest.raises(ValueError, match=r"^`readout_layers` \(3\) must not exceed"):
        dataclasses.replace(FUSED, readout_layers=3)
