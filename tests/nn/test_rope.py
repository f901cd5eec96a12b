from hypothesis import given, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.nn.rope import axial_periods, axial_table, integer_table


TABLES = {
    "axial": axial_table(3, 4, 8),
    "axial behind a summary": axial_table(3, 4, 8, prefix=1),
    "integer": integer_table(3, 4, 8),
}
tables = st.sampled_from(sorted(TABLES))
seeds = st.integers(0, 2**31 - 1)

# DINOv3's positions, by hand.
PERIODS = [
    1.0, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5,
    10.0, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75.0,
]  # fmt: skip
# By the published code: row of the grid, its height, cosines and sines of the first
# four angles that turn with the row.
GOLDEN = [
    (0, 16, [0.91796875, -0.30078125, -0.98828125, -0.78125],
     [0.396484375, 0.953125, 0.154296875, -0.625]),
    (5, 16, [-0.380859375, 0.10205078, 0.453125, 0.6796875],
     [-0.92578125, -0.99609375, -0.890625, -0.734375]),
    (5, 14, [0.21777344, 0.53515625, 0.7265625, 0.83984375],
     [-0.9765625, -0.84375, -0.6875, -0.5390625]),
]  # fmt: skip


def heads(seed, length, head_width=8):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(size=(length, 2, head_width)), jnp.float32)


def test_published_periods():
    np.testing.assert_array_equal(axial_periods(64, "bfloat16"), PERIODS)
    wide = axial_periods(64, "float32")
    np.testing.assert_allclose(wide, 100 ** (np.arange(16) / 16), rtol=1e-6)


def test_published_periods_of_a_head_width_that_is_no_power_of_two():
    published = [1.0, 2.15625, 4.65625, 10.0, 21.625, 46.25]
    np.testing.assert_array_equal(axial_periods(24, "bfloat16"), published)


@pytest.mark.parametrize(("row", "height", "cos", "sin"), GOLDEN)
def test_published_angles(row, height, cos, sin):
    table = axial_table(height, 3, 64, precision="bfloat16")
    # Numbers are quoted to 8 digits; one step of bfloat16 would be 100 times more.
    np.testing.assert_allclose(table.cos[3 * row, :4], cos, rtol=1e-7)
    np.testing.assert_allclose(table.sin[3 * row, :4], sin, rtol=1e-7)


@pytest.mark.parametrize("rows", [4, 16])
def test_rounding_is_all_that_tells_the_precisions_apart(rows):
    exact = axial_table(rows, rows, 64)
    rounded = axial_table(rows, rows, 64, precision="bfloat16")
    assert 1e-3 < np.abs(exact.cos - rounded.cos).max() < 0.05
    tokens = heads(0, rows * rows, 64)
    assert 1e-3 < jnp.abs(exact(tokens) - rounded(tokens)).max() < 0.2


@given(name=tables, seed=seeds)
def test_rotations_keep_lengths_and_angles(name, seed):
    table = TABLES[name]
    first, second = (heads(seed + i, len(table.cos)) for i in range(2))
    before = (first * second).sum(axis=-1)
    np.testing.assert_allclose(
        (table(first) * table(second)).sum(axis=-1), before, atol=1e-4
    )


@given(name=tables, seed=seeds)
def test_rotations_are_linear(name, seed):
    table = TABLES[name]
    first, second = (heads(seed + i, len(table.cos)) for i in range(2))
    np.testing.assert_allclose(
        table(2 * first - second), 2 * table(first) - table(second), atol=1e-5
    )


@pytest.mark.parametrize("make", [axial_table, integer_table])
def test_products_see_only_how_far_apart_tokens_are(make):
    # The law that rotary positions are for: the same query and key, moved together.
    table = make(4, 5, 8)
    same = jnp.broadcast_to(heads(0, 1), (20, 2, 8))
    other = jnp.broadcast_to(heads(1, 1), (20, 2, 8))
    products = jnp.einsum("qhd,khd->qk", table(same), table(other))
    grid = np.asarray(products).reshape(4, 5, 4, 5)
    for rows, columns in [(1, 0), (0, 1), (2, 3)]:
        pairs = [
            grid[row, column, row + rows, column + columns]
            for row in range(4 - rows)
            for column in range(5 - columns)
        ]
        np.testing.assert_allclose(pairs, pairs[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(grid) > 0.1


def test_rows_turn_the_first_half_of_the_planes_and_columns_the_second():
    cos = axial_table(3, 4, 16).cos.reshape(3, 4, 2, 2, 4)  # halves, row or column
    assert (cos[:, :, :, 0] == cos[:, :1, :, 0]).all()
    assert (cos[:, :, :, 1] == cos[:1, :, :, 1]).all()
    assert np.ptp(cos[:, 0, 0, 0, 0]) > 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_summary_is_not_turned(precision):
    table = axial_table(2, 2, 8, prefix=1, precision=precision)
    tokens = heads(0, 5).astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(table(tokens)[0], tokens[0])
    assert not jnp.array_equal(table(tokens)[1], tokens[1])


def test_which_numbers_span_a_plane():
    ones = jnp.zeros((12, 1, 8)).at[:, :, 1].set(1.0)

    def spread(table):
        last = np.abs(np.asarray(table(ones))[-1, 0])
        return set(np.flatnonzero(last > 1e-6).tolist())

    assert spread(axial_table(3, 4, 8)) == {1, 5}
    assert spread(integer_table(3, 4, 8)) == {0, 1}


def test_a_narrow_network_stays_narrow():
    tokens = heads(0, 12).astype(jnp.bfloat16)
    assert TABLES["axial"](tokens).dtype == jnp.bfloat16
    # And is turned in float32: rounded once, not after each product.
    exact = TABLES["axial"](tokens.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(TABLES["axial"](tokens), exact)
