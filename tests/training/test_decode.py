import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DecodeConfig, OptimizerConfig, TransformerConfig
from vtp_eqx.evaluation.latent_statistics import LatentSums
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.decode_objective import decode_objective, EncodedBatch


WIDER = TransformerConfig(width=24, depth=1, num_heads=2, norm="layernorm")
CONFIG = DecodeConfig(
    decoder=WIDER,
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=1),
    ema_decay=0.5,
    batch_size=16,
    num_steps=30,
)


@pytest.fixture(scope="module")
def tokenizer(tiny, data):
    made = eqx.filter_jit(Tokenizer)(tiny.tokenizer, key=jr.key(0))
    return eqx.tree_at(
        lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std),
        made, LatentSums.of(encoded(made, data)).statistics(),
    )  # fmt: skip


def encoded(tokenizer, data):
    return np.asarray(jax.vmap(tokenizer.encode)(data["image"] / np.float32(255)))


def test_noise_is_in_units_of_a_channels_deviation(tokenizer, data):
    latents = jnp.asarray(np.tile(encoded(tokenizer, data), (8, 1, 1, 1)))
    batch = EncodedBatch(np.tile(data["image"], (8, 1, 1, 1)), latents)
    config = dataclasses.replace(CONFIG, latent_noise=0.3)
    views = decode_objective(config, tokenizer).make_views(batch, jr.key(0))
    spread = np.std(views.latents - latents, axis=(0, 1, 2)) / tokenizer.latent_std
    np.testing.assert_allclose(spread, 0.3, rtol=0.05)
    where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
    unmeasured = eqx.tree_at(where, tokenizer, (jnp.zeros(4), jnp.ones(4)))
    with pytest.raises(ValueError, match="must have measured latent statistics"):
        decode_objective(config, unmeasured)
    calm = decode_objective(CONFIG, tokenizer).make_views(batch, jr.key(0))
    np.testing.assert_array_equal(calm.latents, latents)
