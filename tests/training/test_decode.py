import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DecodeConfig, OptimizerConfig, TransformerConfig
from vtp_eqx.evaluation.latent_statistics import LatentSums
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.decode import train_decoder
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


def trained(tokenizer, data, folder, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    latents = encoded(tokenizer, data)
    return train_decoder(config, tokenizer, data["image"], latents, folder=folder)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["reconstruction"] for line in lines]


@pytest.fixture(scope="module")
def decoded(tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    return trained(tokenizer, data, folder), folder


def test_only_the_decoder_changes(decoded, tokenizer, data):
    found, _ = decoded
    assert found.config == dataclasses.replace(tokenizer.config, decoder=WIDER)
    np.testing.assert_array_equal(encoded(found, data), encoded(tokenizer, data))
    without = lambda one: eqx.tree_at(lambda one: one.decoder, one, None)
    for ours, theirs in zip(
        jax.tree.leaves(without(found)),
        jax.tree.leaves(without(tokenizer)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_it_learns_to_invert_the_latents_from_anywhere(
    decoded, tokenizer, data, tmp_path
):
    trained(tokenizer, data, tmp_path, linear_start=False)
    first, *_, last = losses(tmp_path)
    assert last < 0.8 * first
    # Least squares start where this does not even arrive.
    assert losses(decoded[1])[0] < last


def test_a_run_that_has_ended_is_found(decoded, tokenizer, data):
    found, folder = decoded
    again = trained(tokenizer, data, folder)
    for ours, theirs in zip(
        jax.tree.leaves(again), jax.tree.leaves(found), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_another_config_than_a_run_was_begun_with_is_refused(decoded, tokenizer, data):
    _, folder = decoded
    with pytest.raises(ValueError, match=r"^`config.latent_noise` \(0.5, was 0.0\)"):
        trained(tokenizer, data, folder, latent_noise=0.5)


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
