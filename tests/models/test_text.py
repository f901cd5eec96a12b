import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import TextConfig
from vtp_eqx.models.text import TextEncoder


# Compiled once for the file: outside of `jit` a scan compiles at every call.
read = eqx.filter_jit(lambda text, ids: text(ids))
make = eqx.filter_jit(TextEncoder)
SHAPE = dict(context=6, vocabulary=20, width=16, depth=2, num_heads=2)
END = 19
IDS = jnp.array([1, 7, 3, END, 0, 0])


@pytest.fixture(scope="module")
def text():
    return make(TextConfig(**SHAPE), key=jr.key(0))


def test_what_comes_after_the_end_token_changes_nothing(text):
    other = IDS.at[4:].set(jnp.array([5, 2]))
    np.testing.assert_array_equal(read(text, IDS), read(text, other))


def test_every_word_before_the_end_counts(text):
    for position in range(3):
        other = IDS.at[position].set(9)
        assert not np.allclose(read(text, IDS), read(text, other))


@pytest.mark.parametrize("causal", [True, False])
def test_information_flows_forward_only(causal, getkey):
    text = make(TextConfig(**SHAPE, causal=causal), key=getkey())

    @jax.jit
    @jax.grad
    def influence(positions):
        moved = eqx.tree_at(lambda t: t.positions, text, positions)
        return jnp.sum(moved(IDS) ** 3)

    reached = (influence(text.positions) != 0).any(axis=1)
    expected = [True] * 4 + [not causal] * 2
    np.testing.assert_array_equal(reached, expected)


def test_the_first_end_token_is_read(text):
    twice = IDS.at[5].set(END)
    np.testing.assert_array_equal(read(text, IDS), read(text, twice))


def test_a_batch_is_its_texts_one_by_one(text):
    ids = jnp.stack([IDS, jnp.array([1, 2, END, 0, 0, 0])])
    together = eqx.filter_jit(lambda text: jax.vmap(text)(ids))(text)
    alone = jnp.stack([read(text, one) for one in ids])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_embedding_is_the_projected_feature(text):
    embedded = eqx.filter_jit(TextEncoder.embed)(text, IDS)
    np.testing.assert_allclose(embedded, read(text, IDS) @ text.projection, rtol=1e-4)


def test_residual_branches_start_small_in_deep_towers(getkey):
    text = make(TextConfig(**{**SHAPE, "width": 64, "depth": 8}), key=getkey())
    blocks = text.stack.blocks
    assert np.std(blocks.attention.to_qkv.weight) == pytest.approx(64**-0.5, rel=0.05)
    for layer in (blocks.attention.to_out, blocks.feed_forward.out):
        expected = (64 * 2 * 8) ** -0.5
        assert np.std(layer.weight) == pytest.approx(expected, rel=0.05)


def test_the_published_tower_has_the_published_parameters():
    """As published: 123.65 million."""
    shapes = eqx.filter_eval_shape(TextEncoder, TextConfig(), key=jr.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 123_650_304
