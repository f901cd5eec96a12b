import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.training.examples import DECODE, encode, measured_tokenizer
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.training.decode import (
    decode_objective,
    EncodedBatch,
    init_decoder_training,
    with_new_decoder,
)


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


def test_each_image_has_its_share_of_the_noise_by_its_law(tokenizer, data):
    latents = jnp.asarray(np.tile(encode(tokenizer, data), (8, 1, 1, 1)))
    batch = EncodedBatch(np.tile(data["image"], (8, 1, 1, 1)), latents)

    def noise(law):
        config = dataclasses.replace(DECODE, latent_noise=0.8, noise_law=law)
        views = decode_objective(config, tokenizer).make_views(batch, jr.key(0))
        return np.asarray((views.latents - latents) / tokenizer.latent_std)

    fixed, uniform = noise("fixed"), noise("uniform")
    share = (uniform / fixed).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(uniform, share[:, None, None, None] * fixed, atol=1e-4)
    assert ((share >= 0) & (share < 1)).all()
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.75]), [0.25, 0.75], atol=0.1)
    with pytest.raises(
        ValueError, match=r"^`noise_law` \('uniform'\) is of noise, but"
    ):
        dataclasses.replace(DECODE, noise_law="uniform")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rtol"),
    [
        ({"accumulate": 2, "sharding": "zero"}, 1e-5),
        ({"precision": "bfloat16"}, 0.05),
    ],
)
def test_a_decoder_learns_the_same_in_parts_and_nearly_so_in_bfloat16(
    how, rtol, tokenizer, data
):
    begun = with_new_decoder(tokenizer, DECODE.decoder, key=jr.key(0))
    batch = EncodedBatch(data["image"][:16], encode(tokenizer, data)[:16])
    found = []
    for config in (DECODE, dataclasses.replace(DECODE, **how)):
        mesh = data_mesh(2)
        state, step = init_decoder_training(config, begun, mesh)
        state, metrics = step(state, shard_batch(batch, mesh))
        found.append((metrics["gradient_norm"], state.opt_state))
    (norm, moments), (again, others) = found
    np.testing.assert_allclose(again, norm, rtol=rtol)
    for one, other in zip(*map(jax.tree.leaves, (moments, others)), strict=True):
        scale = jnp.abs(one).max()
        np.testing.assert_allclose(other, one, rtol=0, atol=2 * rtol * scale)
