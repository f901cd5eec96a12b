import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.chunked_vmap import chunk_size, CHUNK_VALUES, chunked_vmap


ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)


def total(rows, table, block):
    nats = lambda row, number: (jax.nn.logsumexp(table @ row) + number, row.sum())
    return chunked_vmap(nats, rows, jnp.arange(7), columns=5, block=block)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_blocks_change_neither_values_nor_gradients(block):
    table = jnp.asarray(np.random.default_rng(1).standard_normal((5, 3)), jnp.float32)
    loss = lambda rows, table, block: sum(
        part.sum() for part in total(rows, table, block)
    )
    step = lambda block: jax.jit(
        jax.value_and_grad(lambda *given: loss(*given, block), argnums=(0, 1))
    )(ROWS, table)
    for ours, theirs in zip(
        jax.tree.leaves(step(block)), jax.tree.leaves(step(None)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_values_come_in_the_order_of_their_rows():
    _, sums = total(jnp.asarray(ROWS), jnp.zeros((5, 3)), 2)
    np.testing.assert_allclose(sums, ROWS.sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("columns", [1, 65536, 2 * CHUNK_VALUES])
def test_a_block_holds_as_many_rows_as_fit_and_at_least_one(columns):
    rows = chunk_size(columns)
    assert rows == 1 or rows * columns <= CHUNK_VALUES < (rows + 1) * columns
