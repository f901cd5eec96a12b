from hypothesis import given, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.nn.patches import patch_grid, patchify, unpatchify


shapes = st.sampled_from([(1, 1, 1, 1), (2, 3, 4, 3), (3, 1, 2, 3), (1, 4, 2, 5)])


@given(shape=shapes, seed=st.integers(0, 2**31 - 1))
def test_unpatchify_undoes_patchify(shape, seed):
    rows, columns, size, channels = shape
    image = np.random.default_rng(seed).normal(
        size=(rows * size, columns * size, channels)
    )
    image = jnp.asarray(image, jnp.float32)
    patches = patchify(image, size)
    assert patches.shape == (rows * columns, size * size * channels)
    again = unpatchify(patches, (rows, columns), size)
    np.testing.assert_array_equal(again, image)


def test_patches_run_row_by_row_with_the_channel_fastest():
    image = jnp.arange(4 * 6 * 2, dtype=jnp.float32).reshape(4, 6, 2)
    patches = patchify(image, 2)
    # A row of the image has 12 numbers.
    np.testing.assert_array_equal(patches[0], [0, 1, 2, 3, 12, 13, 14, 15])
    np.testing.assert_array_equal(patches[1][:4], [4, 5, 6, 7])
    np.testing.assert_array_equal(patches[3][:4], [24, 25, 26, 27])


def test_a_size_that_the_patch_does_not_divide_is_an_error():
    assert patch_grid(8, 12, 4) == (2, 3)
    with pytest.raises(ValueError, match="got 8 x 10 and 4"):
        patch_grid(8, 10, 4)
    with pytest.raises(ValueError, match="got 8 x 10 and 4"):
        patchify(jnp.zeros((8, 10, 3)), 4)
