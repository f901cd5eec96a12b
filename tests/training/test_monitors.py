import functools

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import PrototypeConfig
from vtp_eqx.models.heads import PrototypeHead
from vtp_eqx.training.monitors import (
    collapse_monitor,
    effective_rank,
    neighbor_distance,
    num_prototypes_used,
)


def test_effective_rank_of_equal_singular_values_is_their_number():
    # Centered already, with three singular values of equal size.
    rows = np.kron(np.eye(3), [[1], [-1]]).astype(np.float32)
    np.testing.assert_allclose(effective_rank(jnp.asarray(rows)), 3, rtol=1e-5)


def test_rows_on_a_line_have_rank_one():
    rows = jnp.outer(jnp.arange(5.0), jnp.asarray([1.0, 2.0, -1.0])) + 7
    np.testing.assert_allclose(effective_rank(rows), 1, rtol=1e-3)


@given(seed=st.integers(0, 1000))
def test_effective_rank_lies_between_one_and_the_width(seed):
    rank = effective_rank(jr.normal(jr.key(seed), (9, 4)))
    assert 1 <= rank <= 4.0001


def test_neighbor_distance_by_hand():
    # Unit vectors at 0, 90 and 180 degrees: each has a neighbor at 90.
    rows = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    np.testing.assert_allclose(neighbor_distance(rows), np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(neighbor_distance(jnp.ones((3, 2))), 0, atol=1e-6)


def test_prototypes_used_falls_to_one_where_all_choose_the_same():
    config = PrototypeConfig(
        num_prototypes=8, hidden_width=8, bottleneck_width=4, num_layers=2
    )
    head = eqx.filter_jit(PrototypeHead)(6, config, key=jr.key(0))
    tokens = jr.normal(jr.key(1), (5, 3, 6))
    used_at = functools.partial(num_prototypes_used, temperature=0.1)
    used = used_at(head, tokens)
    assert 1 < used < 8
    # A cold choice is a surer one.
    assert num_prototypes_used(head, tokens, temperature=0.01) < used
    # A scale of 0 leaves no choice: all are alike.
    blind = eqx.tree_at(lambda head: head.scale, head, jnp.zeros(8))
    np.testing.assert_allclose(used_at(blind, tokens), 8, rtol=1e-5)
    sure = eqx.tree_at(lambda head: head.scale, head, jnp.full(8, 1e4))
    same = jnp.broadcast_to(tokens[:1, :1], tokens.shape)
    np.testing.assert_allclose(used_at(sure, same), 1, rtol=1e-5)


@pytest.mark.slow
def test_a_dead_channel_and_a_collapsed_encoder_are_seen(started, data):
    monitor = collapse_monitor(data["image"][:8], temperature=0.1)
    state = started.start()
    healthy = monitor(state)
    assert healthy.keys() == {
        "feature_rank", "neighbor_distance", "latent_deviation_least",
        "latent_deviation_mean", "prototypes_used",
    }  # fmt: skip
    assert healthy["latent_deviation_least"] > 0
    assert healthy["feature_rank"] > 2
    bottleneck = lambda state: state.student.tokenizer.bottleneck.weight
    # A channel is a row of [latents, features]; its bias does not vary.
    dead = eqx.tree_at(bottleneck, state, bottleneck(state).at[0].set(0))
    seen = monitor(dead)
    assert seen["latent_deviation_least"] < 1e-6
    # The other channels are as they were: only the dead one is missing in the mean.
    channels = bottleneck(state).shape[0]
    assert healthy["latent_deviation_mean"] - seen["latent_deviation_mean"] > 0
    assert seen["latent_deviation_mean"] > healthy["latent_deviation_mean"] / channels
    encoder = lambda state: state.student.tokenizer.encoder
    zeros = lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf
    collapsed = eqx.tree_at(encoder, state, jax.tree.map(zeros, encoder(state)))
    assert monitor(collapsed)["neighbor_distance"] < 1e-3
