import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.training.examples import DECODE, encode, measured_tokenizer
from vtp_eqx.training.decode import decode_objective, EncodedBatch


@pytest.fixture(scope="module")
def tokenizer(tiny, data):
    return measured_tokenizer(tiny.tokenizer, data)


def test_noise_is_in_units_of_a_channels_deviation(tokenizer, data):
    latents = jnp.asarray(np.tile(encode(tokenizer, data), (8, 1, 1, 1)))
    batch = EncodedBatch(np.tile(data["image"], (8, 1, 1, 1)), latents)
    config = dataclasses.replace(DECODE, latent_noise=0.3)
    views = decode_objective(config, tokenizer).make_views(batch, jr.key(0))
    spread = np.std(views.latents - latents, axis=(0, 1, 2)) / tokenizer.latent_std
    np.testing.assert_allclose(spread, 0.3, rtol=0.05)
    where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
    unmeasured = eqx.tree_at(where, tokenizer, (jnp.zeros(4), jnp.ones(4)))
    with pytest.raises(ValueError, match="must have measured latent statistics"):
        decode_objective(config, unmeasured)
    calm = decode_objective(DECODE, tokenizer).make_views(batch, jr.key(0))
    np.testing.assert_array_equal(calm.latents, latents)
