from hypothesis import given, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.equivariance import shrunk, turned


def grids(seed, size=4):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.standard_normal((3, size, size, 2)), jnp.float32)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_smaller_grid_has_the_means_of_cells(factor):
    grid = grids(0)
    found = shrunk(grid, factor)
    assert found.shape == (3, 4 // factor, 4 // factor, 2)
    expected = grid[:, :factor, :factor].mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.mean(found, axis=(1, 2)), grid.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6
    )


@given(seed=st.integers(0, 2**31 - 1))
def test_each_grid_is_turned_by_its_own_quarters(seed):
    grid = grids(seed)
    turns = np.random.default_rng(seed).integers(0, 4, 3).astype(np.int32)
    found = turned(grid, jnp.asarray(turns))
    for row, by in enumerate(turns):
        np.testing.assert_array_equal(found[row], np.rot90(grid[row], by))


def test_turning_and_shrinking_exchange():
    grid, turns = grids(1), jnp.array([1, 2, 3])
    np.testing.assert_allclose(
        shrunk(turned(grid, turns), 2), turned(shrunk(grid, 2), turns), rtol=1e-6
    )


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^`factor` \(3\) must divide .* got 4 x 4"):
        shrunk(jnp.zeros((1, 4, 4, 1)), 3)
    with pytest.raises(ValueError, match=r"^`grids` must be square .* got 4 x 2"):
        turned(jnp.zeros((1, 4, 2, 1)), jnp.zeros(1, jnp.int32))
