import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

from vtp_eqx.config import decoder_like, TokenizerConfig, TransformerConfig
from vtp_eqx.models.arrays import (
    check_arrays,
    latents_hash,
    named_arrays,
    weights_hash,
)
from vtp_eqx.models.tokenizer import Tokenizer


TOWER = TransformerConfig(width=16, depth=1, num_heads=2)
CONFIG = TokenizerConfig(
    encoder=TOWER, decoder=decoder_like(TOWER), patch_size=4, latent_width=3
)


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
    assert latents_hash(tokenizer) == latents_hash(other)


def test_measuring_latents_changes_their_hash_alone(tokenizer):
    measured = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(3, 2.0))
    assert weights_hash(measured) == weights_hash(tokenizer)
    assert latents_hash(measured) != latents_hash(tokenizer)


def test_names_and_shapes_are_held_to_what_is_expected():
    one, two = jnp.zeros(1), jnp.zeros(2)
    check_arrays({"a": one, "b": two}, {"b": two, "a": one})
    with pytest.raises(ValueError, match=r"got \[c\] too many and \[b\] missing"):
        check_arrays({"a": one, "c": two}, {"a": one, "b": two})
    with pytest.raises(ValueError, match=r"got \[a \(2,\) for \(1,\)\]"):
        check_arrays({"a": two}, {"a": one})


def test_a_long_list_of_names_is_cut_short():
    many = {f"tensor{i}": jnp.zeros(1) for i in range(9)}
    with pytest.raises(ValueError, match="tensor4, and 4 more"):
        check_arrays({}, many)
