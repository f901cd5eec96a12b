import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import TransformerConfig, VIT_B, VIT_L, VIT_S
from vtp_eqx.models.encoder import Encoder


# Compiled once for the file: outside of `jit` a scan compiles at every call.
see = eqx.filter_jit(lambda encoder, pixels, mask=None: encoder(pixels, mask=mask))
see_batch = eqx.filter_jit(Encoder.batch)
CONFIG = TransformerConfig(width=16, depth=2, num_heads=2)
PATCH = 4


@pytest.fixture(scope="module")
def encoder():
    return eqx.filter_jit(Encoder)(CONFIG, PATCH, "float32", key=jr.key(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@given(grid=st.sampled_from([(2, 2), (1, 3)]), seed=st.integers(0, 2**31 - 1))
def test_any_grid_gives_one_row_a_patch(encoder, grid, seed):
    rows, columns = grid
    pixels = jr.normal(jr.key(seed), (rows * PATCH, columns * PATCH, 3))
    features = see(encoder, pixels)
    assert features.cls.shape == (16,)
    assert features.patches.shape == (rows * columns, 16)
    assert np.isfinite(features.patches).all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_is_its_images_one_by_one(encoder, masked, getkey):
    pixels = jr.normal(getkey(), (3, 8, 12, 3))
    mask = jr.bernoulli(getkey(), 0.5, (3, 6)) if masked else None
    together = see_batch(encoder, pixels, mask=mask)
    alone = jax.vmap(see, in_axes=(None, 0, 0))(encoder, pixels, mask)
    np.testing.assert_allclose(together.cls, alone.cls, atol=1e-5)
    np.testing.assert_allclose(together.patches, alone.patches, atol=1e-5)


def test_depth_drops_only_with_a_key(encoder, getkey):
    pixels = jr.normal(getkey(), (4, 8, 8, 3))
    whole = see_batch(encoder, pixels)
    without_key = see_batch(encoder, pixels, drop_rate=0.5)
    dropped = see_batch(encoder, pixels, drop_rate=0.5, key=getkey())
    np.testing.assert_array_equal(whole.cls, without_key.cls)
    assert not np.allclose(whole.cls, dropped.cls)


def test_hidden_patches_cannot_be_read(encoder, getkey):
    pixels = jr.normal(getkey(), (8, 12, 3))
    mask = jnp.array([False, True, False, False, True, True])

    @jax.jit
    @jax.grad
    def read(pixels):
        features = encoder(pixels, mask=mask)
        return jnp.sum(features.cls**2) + jnp.sum(features.patches**3)

    read = read(pixels).reshape(2, PATCH, 3, PATCH, 3)
    is_read = (read != 0).any(axis=(1, 3, 4)).reshape(6)
    np.testing.assert_array_equal(is_read, ~mask)


def test_the_mask_token_stands_in_for_hidden_patches(encoder, getkey):
    marked = eqx.tree_at(lambda e: e.mask_token, encoder, jr.normal(getkey(), (16,)))
    pixels, mask = jr.normal(getkey(), (8, 8, 3)), jnp.ones(4, bool)
    assert not np.allclose(
        see(marked, pixels, mask).cls, see(encoder, pixels, mask).cls
    )


def test_the_last_layer_is_the_call(encoder, getkey):
    pixels = jr.normal(getkey(), (8, 8, 3))
    first, last = eqx.filter_jit(encoder.intermediate)(pixels, 2)
    called = see(encoder, pixels)
    np.testing.assert_allclose(last.cls, called.cls, atol=1e-6)
    np.testing.assert_allclose(last.patches, called.patches, atol=1e-6)
    assert not np.allclose(first.cls, last.cls)


@pytest.mark.parametrize("last", [0, 3])
def test_layers_that_are_not_there_are_refused(encoder, last):
    with pytest.raises(ValueError, match="has 1 to 2 last ones"):
        encoder.intermediate(jnp.zeros((8, 8, 3)), last)


def test_patches_know_where_they_are(encoder):
    # Positions turn queries and keys alone, so that it takes another token beside
    # equal patches, the summary, for their mixtures to differ.
    patches = see(encoder, jnp.ones((8, 8, 3))).patches
    assert np.ptp(np.asarray(patches), axis=0).max() > 1e-6


@pytest.mark.parametrize(
    ("config", "block", "trunk"),
    [
        (VIT_S, 1_774_208, 21_586_944),
        (VIT_B, 7_087_360, 85_641_216),
        (VIT_L, 12_611_936, 303_476_992),
    ],
)
def test_published_sizes_have_the_published_parameters(config, block, trunk):
    """As published; the published trunk counts the bottleneck too (64 x width)."""
    shapes = eqx.filter_eval_shape(Encoder, config, 16, "float32", key=jr.key(0))
    assert count(shapes.stack.blocks) == block * config.depth
    assert count(shapes) == trunk


@pytest.fixture(scope="module")
def fused(encoder):
    """The same arrays; the bottleneck reads both blocks."""
    made = eqx.filter_jit(Encoder)(
        CONFIG, PATCH, "float32", readout_layers=2, key=jr.key(0)
    )
    assert eqx.tree_equal(jax.tree.leaves(made), jax.tree.leaves(encoder))
    return made


def test_the_bottleneck_reads_the_mean_of_the_last_blocks(encoder, fused, getkey):
    pixels = jr.normal(getkey(), (3, 8, 12, 3))
    layers = eqx.filter_jit(Encoder.intermediate)(encoder, pixels[0], 2)
    found = see(fused, pixels[0])
    for name in ("cls", "patches"):
        first, last = (getattr(features, name) for features in layers)
        np.testing.assert_allclose(getattr(found, name), last, rtol=1e-5, atol=1e-6)
        mean = getattr(found.readout, name)
        np.testing.assert_allclose(mean, (first + last) / 2, rtol=1e-5, atol=1e-6)
        assert np.abs(mean - last).max() > 1e-3
    together = see_batch(fused, pixels)
    np.testing.assert_allclose(together.readout.cls[0], found.readout.cls, atol=1e-5)
    np.testing.assert_allclose(together.patches[0], found.patches, atol=1e-5)


def test_one_block_is_read_as_it_is(encoder, getkey):
    features = see(encoder, jr.normal(getkey(), (8, 8, 3)))
    assert features.fused is None
    assert features.readout is features


def test_depth_drops_the_same_whatever_is_read(encoder, fused, getkey):
    pixels, key = jr.normal(getkey(), (4, 8, 8, 3)), getkey()
    one, both = (
        see_batch(network, pixels, drop_rate=0.5, key=key)
        for network in (encoder, fused)
    )
    np.testing.assert_allclose(both.patches, one.patches, rtol=1e-5, atol=1e-6)
    assert not np.allclose(both.cls, see_batch(fused, pixels).cls)
