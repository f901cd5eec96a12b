import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import decoder_like, TokenizerConfig, TransformerConfig
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
