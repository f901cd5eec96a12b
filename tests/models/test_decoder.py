import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DECODER_L4, decoder_like, VIT_B, VIT_FEMTO, VIT_L, VIT_S
from vtp_eqx.models.decoder import PixelDecoder


# Compiled once for the file: outside of `jit` a scan compiles at every call.
paint = eqx.filter_jit(lambda decoder, latents: decoder(latents))


@pytest.fixture(scope="module")
def decoder():
    make = eqx.filter_jit(PixelDecoder)
    return make(decoder_like(VIT_FEMTO), 5, 4, "float32", key=jr.key(0))


@pytest.mark.parametrize("grid", [(2, 2), (1, 3)])
def test_a_latent_becomes_a_patch_of_pixels(decoder, grid, getkey):
    pixels = paint(decoder, jr.normal(getkey(), (*grid, 5)))
    assert pixels.shape == (grid[0] * 4, grid[1] * 4, 3)


def test_a_batch_is_its_images_one_by_one(decoder, getkey):
    latents = jr.normal(getkey(), (2, 2, 2, 5))
    together = eqx.filter_jit(PixelDecoder.batch)(decoder, latents)
    alone = jnp.stack([paint(decoder, one) for one in latents])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_last_layer_places_rows_columns_and_colors(decoder):
    # With no weight in it, pixels are its bias: patch rows, patch columns, color.
    bias = jnp.arange(4 * 4 * 3, dtype=jnp.float32)
    plain = eqx.tree_at(
        lambda d: (d.to_pixels.weight, d.to_pixels.bias),
        decoder,
        (jnp.zeros_like(decoder.to_pixels.weight), bias),
    )
    pixels = paint(plain, jnp.zeros((2, 2, 5)))
    np.testing.assert_array_equal(pixels[4:, :4], bias.reshape(4, 4, 3))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (decoder_like(VIT_S), 21_621_120),
        (decoder_like(VIT_B), 85_708_800),
        (decoder_like(VIT_L), 303_591_424),
        (DECODER_L4, 51_311_744),
    ],
)
def test_published_sizes_have_the_published_parameters(config, parameters):
    """As published, and as the paper counts the four layers."""
    shapes = eqx.filter_eval_shape(
        PixelDecoder, config, 64, 16, "float32", key=jr.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
