import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.nn.attention import mix_values, SelfAttention
from vtp_eqx.nn.rope import axial_table


LENGTH, WIDTH, HEADS = 6, 16, 2


@pytest.fixture(scope="module")
def attention():
    layer = eqx.filter_jit(SelfAttention)(WIDTH, HEADS, qk_norm=None, key=jr.key(0))
    # Wider than they start, so that attention is no plain mean.
    return jax.tree.map(lambda leaf: 20 * leaf, layer)


@pytest.fixture(scope="module")
def tokens():
    return jr.normal(jr.key(1), (LENGTH, WIDTH))


def test_attention_as_its_formula(attention, tokens):
    qkv = np.asarray(tokens @ attention.to_qkv.weight.T)
    queries, keys, values = qkv.reshape(LENGTH, 3, HEADS, -1).swapaxes(0, 1)
    mixed = []
    for head in range(HEADS):
        logits = queries[:, head] @ keys[:, head].T / np.sqrt(WIDTH // HEADS)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        mixed.append(shares @ values[:, head])
    expected = np.concatenate(mixed, axis=1) @ np.asarray(attention.to_out.weight).T
    np.testing.assert_allclose(attention(tokens), expected, rtol=1e-4, atol=1e-4)


def test_hidden_tokens_cannot_be_read(attention, tokens):
    hidden = jnp.arange(LENGTH) % 3 == 0
    mask = jnp.broadcast_to(~hidden, (LENGTH, LENGTH))
    read = lambda tokens: (attention(tokens, mask=mask)[~hidden] ** 2).sum()
    by_token = jnp.abs(jax.grad(read)(tokens)).sum(axis=1)
    assert (by_token[hidden] == 0).all()
    assert (by_token[~hidden] > 0).all()


def test_a_causal_mask_hides_what_comes_later(attention, tokens):
    mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    jacobian = jax.jacobian(lambda tokens: attention(tokens, mask=mask))(tokens)
    reads = np.abs(jacobian).sum(axis=(1, 3)) > 0
    np.testing.assert_array_equal(reads, mask)


def test_tokens_without_positions_are_a_set(attention, tokens):
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(
        attention(tokens[order]), attention(tokens)[order], rtol=1e-4, atol=1e-5
    )


def test_tokens_with_positions_are_a_grid(attention, tokens):
    table = axial_table(2, 3, WIDTH // HEADS)
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    here = attention(tokens, rotate=table)[order]
    assert jnp.abs(attention(tokens[order], rotate=table) - here).max() > 0.01


def test_normed_queries_and_keys_do_not_care_how_long_they_are(tokens):
    layer = SelfAttention(WIDTH, HEADS, qk_norm="rmsnorm", key=jr.key(0))
    longer = eqx.tree_at(
        lambda layer: layer.to_qkv.weight,
        layer,
        layer.to_qkv.weight.at[: 2 * WIDTH].multiply(10),
    )
    # `eps` alone tells them apart.
    np.testing.assert_allclose(longer(tokens), layer(tokens), rtol=0.02, atol=1e-4)
    plain = eqx.tree_at(
        lambda layer: (layer.query_norm, layer.key_norm), longer, (None, None)
    )
    assert jnp.abs(plain(tokens) - longer(tokens)).max() > 1e-3


def test_float32_logits_are_nearer_to_float32_in_bfloat16():
    tokens = jr.normal(jr.key(1), (LENGTH, WIDTH))

    @eqx.filter_jit
    def attend(dtype, switch):
        layer = SelfAttention(WIDTH, HEADS, float32_logits=switch, key=jr.key(0))
        layer = jax.tree.map(lambda leaf: (30 * leaf).astype(dtype), layer)
        # To turn heads rounds them in bfloat16.
        turn = lambda heads: heads * jnp.asarray(1.01, heads.dtype)
        return layer(tokens.astype(dtype), rotate=turn)

    exact = attend(jnp.float32, False)
    coarse, finer = attend(jnp.bfloat16, False), attend(jnp.bfloat16, True)
    assert coarse.dtype == finer.dtype == jnp.bfloat16
    error = lambda found: float(np.abs(np.asarray(found, np.float32) - exact).mean())
    assert error(finer) < error(coarse)


@pytest.mark.parametrize(("kind", "exact"), [(jnp.bfloat16, 2), (jnp.float32, 0)])
def test_float32_logits_of_bfloat16_networks_are_multiplied_in_float32(kind, exact):
    heads = jnp.ones((LENGTH, HEADS, 4), jnp.float32)
    program = jax.make_jaxpr(mix_values)(heads, heads, heads.astype(kind), None)
    assert str(program).count("Precision.HIGHEST") == exact  # of both operands
