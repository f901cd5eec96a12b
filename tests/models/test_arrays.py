import dataclasses
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from vtp_eqx.config import (
    decoder_like,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.mesh import data_mesh, replicate
from vtp_eqx.models.arrays import (
    latents_hash,
    named_arrays,
    weights_hash,
)
from vtp_eqx.models.tokenizer import Tokenizer


TOWER = TransformerConfig(width=16, depth=1, num_heads=2)
CONFIG = TokenizerConfig(
    encoder=TOWER,
    decoder=decoder_like(TOWER),
    text=TextConfig(context=4, vocabulary=9, width=8, depth=1, num_heads=2),
    patch_size=4,
    latent_width=3,
)


def with_deviation(tokenizer, value):
    return eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(3, value))


@pytest.fixture(scope="module")
def tokenizer():
    return eqx.filter_jit(Tokenizer)(CONFIG, key=jr.key(0))


def test_arrays_are_named_by_their_path(tokenizer):
    names = named_arrays(tokenizer)
    assert names["encoder.stack.blocks.attention.to_qkv.weight"].shape == (1, 48, 16)
    assert names["latent_mean"] is tokenizer.latent_mean


def test_a_hash_is_a_function_of_the_values(tokenizer):
    again = eqx.filter_jit(Tokenizer)(CONFIG, key=jr.key(0))
    other = eqx.filter_jit(Tokenizer)(CONFIG, key=jr.key(1))
    assert weights_hash(tokenizer) == weights_hash(again)
    assert weights_hash(tokenizer) != weights_hash(other)


def test_measuring_latents_changes_no_hash_of_weights(tokenizer):
    measured = with_deviation(tokenizer, 2.0)
    assert weights_hash(measured) == weights_hash(tokenizer)


def test_latents_have_a_name_where_they_were_measured(tokenizer):
    assert not tokenizer.is_measured
    with pytest.raises(ValueError, match="must have measured latent statistics"):
        latents_hash(tokenizer)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("encoder.patch_embed.weight", True),
        ("encoder.stack.blocks.attention.to_qkv.weight", True),
        ("bottleneck.weight", True),
        ("latent_mean", True),
        ("latent_std", True),
        ("decoder.embed.weight", False),
        ("text.token_embedding", False),
        ("projection.weight", False),
        ("logit_scale", False),
    ],
)
def test_the_name_of_latents_is_of_what_makes_them(tokenizer, name, changes):
    measured = with_deviation(tokenizer, 2.0)
    where = operator.attrgetter(name)
    other = eqx.tree_at(where, measured, where(measured) * 1.01 + 0.01)
    assert (latents_hash(other) != latents_hash(measured)) == changes


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("rope", "bfloat16", True),
        ("pixel_mean", (0.5, 0.5, 0.5), True),
        ("encoder", dataclasses.replace(TOWER, num_heads=1), True),
        ("encoder", dataclasses.replace(TOWER, remat="full", attention="fused"), False),
        ("image_size", 64, False),
    ],
)
def test_settings_that_change_latents_change_their_name(
    tokenizer, field, value, changes
):
    measured = with_deviation(tokenizer, 2.0)
    other = jax.tree.map(lambda leaf: leaf, measured)
    config = dataclasses.replace(CONFIG, **{field: value})
    object.__setattr__(other, "config", config)
    assert (latents_hash(other) != latents_hash(measured)) == changes


def test_precision_and_device_change_no_name_of_latents(tokenizer):
    measured = with_deviation(tokenizer, 2.0)
    where = lambda tokenizer: tokenizer.encoder.cls_token
    measured = eqx.tree_at(where, measured, where(measured).at[0].set(-1e-40))
    rounded = measured.at_precision("bfloat16")
    assert rounded.bottleneck.weight.dtype == jnp.bfloat16
    elsewhere = jax.device_put(measured, jax.devices()[-1])
    spread = replicate(measured, data_mesh())
    names = {latents_hash(one) for one in (measured, rounded, elsewhere, spread)}
    assert len(names) == 1
