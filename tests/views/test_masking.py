from functools import partial

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vtp_eqx.mesh import DATA, data_mesh
from vtp_eqx.views.masking import block_mask, mask_counts, masked_rows, shard_capacity


RATIO = (0.1, 0.5)
SEEDS = st.integers(0, 2**31 - 1)
gather = eqx.filter_jit(masked_rows)
draw = eqx.filter_jit(
    lambda counts, grid, key: jax.vmap(
        lambda count, key: block_mask(count, grid, key=key)
    )(counts, jr.split(key, len(counts)))
)


@pytest.mark.parametrize(
    ("num_patches", "totals"),
    [(196, (273, 507, 974, 1906, 3771)), (256, (357, 663, 1274, 2496, 4941))],
)
def test_totals_are_those_of_the_reference(num_patches, totals):
    for num_images, total in zip((8, 16, 32, 64, 128), totals, strict=True):
        assert mask_counts(num_images, num_patches, 0.5, RATIO).sum() == total


def test_eight_crops_by_hand():
    # Edges 0.1, 0.2, 0.3, 0.4, 0.5: the last four of 20 patches, and four times none.
    counts = mask_counts(8, 20, 0.5, RATIO)
    assert sorted(counts) == [0, 0, 0, 0, 4, 6, 8, 10]


@pytest.mark.parametrize("num_images", [16, 64, 96, 256])
def test_shards_and_crops_have_nearly_equal_totals(num_images):
    counts = mask_counts(num_images, 64, 0.5, RATIO)
    for num_shards in (2, 4, 8):
        totals = counts.reshape(num_shards, -1).sum(axis=1)
        assert totals.max() - totals.min() <= 2 * counts.max()
        assert shard_capacity(counts, num_shards) == totals.max()
    assert abs(counts[::2].sum() - counts[1::2].sum()) <= 3 * counts.max()


@given(seed=SEEDS, grid=st.sampled_from([(4, 4), (3, 7)]))
def test_a_mask_hides_exactly_what_it_is_asked_to(seed, grid):
    counts = jnp.arange(16) % (grid[0] * grid[1] + 1)
    masks = draw(counts, grid, jr.key(seed))
    np.testing.assert_array_equal(masks.sum(axis=1), counts)


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_the_extremes_hide_nothing_and_everything(grid, getkey):
    num_patches = grid[0] * grid[1]
    none, every = draw(jnp.array([0, num_patches]), grid, getkey())
    assert not none.any()
    assert every.all()


def test_hidden_patches_lie_in_blocks(getkey):
    def neighbors(masks):
        masks = masks.reshape(-1, 8, 8)
        return (masks[:, :, 1:] & masks[:, :, :-1]).sum()

    masks = draw(jnp.full(200, 24), (8, 8), getkey())
    scattered = jr.permutation(getkey(), masks, axis=1, independent=True)
    assert neighbors(masks) > 1.5 * neighbors(scattered)


def test_no_side_of_the_image_is_preferred(getkey):
    # The middle is: a rectangle that covers a corner must lie in it.
    masks = draw(jnp.full(2000, 6), (4, 4), getkey())
    shares = np.asarray(masks.mean(axis=0)).reshape(4, 4)
    for mirrored in (shares[::-1], shares[:, ::-1], shares.T):
        np.testing.assert_allclose(shares, mirrored, atol=0.06)
    assert shares[1:3, 1:3].min() > shares[[0, 0, 3, 3], [0, 3, 0, 3]].max()


@given(seed=SEEDS)
def test_rows_are_the_hidden_patches_and_their_weights_sum_to_the_masked_images(seed):
    counts = jnp.array([0, 3, 5, 0, 1, 8])
    masks = draw(counts, (4, 4), jr.key(seed))
    rows, weights = map(np.asarray, gather(masks, 20))
    assert set(rows[:17].tolist()) == set(np.flatnonzero(np.asarray(masks)))
    np.testing.assert_array_equal(weights[17:], 0)
    for image, count in enumerate(counts.tolist()):
        own = weights[:17][rows[:17] // 16 == image]
        np.testing.assert_allclose(own, np.full(count, 1 / max(count, 1)), rtol=1e-6)


def test_more_hidden_patches_than_room_poison_the_weights(getkey):
    masks = draw(jnp.array([4, 4, 0, 0, 0, 0]), (4, 4), getkey())
    assert not jnp.isnan(gather(masks, 8)[1]).any()
    assert jnp.isnan(gather(masks, 7)[1]).all()


def test_masks_are_drawn_and_gathered_on_a_mesh(getkey):
    counts = mask_counts(16, 16, 0.5, RATIO)
    capacity = shard_capacity(counts, 4)

    @jax.jit
    @partial(jax.shard_map, mesh=data_mesh(4), in_specs=P(DATA), out_specs=P(DATA))
    def shard(counts, keys):
        masks = jax.vmap(lambda count, key: block_mask(count, (4, 4), key=key))(
            counts, keys
        )
        return masks, masked_rows(masks, capacity)[1]

    masks, weights = shard(jnp.asarray(counts), jr.split(getkey(), 16))
    np.testing.assert_array_equal(masks.sum(axis=1), counts)
    np.testing.assert_allclose(weights.sum(), 8, rtol=1e-6)


def test_uneven_shards_and_wrong_rates_are_refused():
    with pytest.raises(ValueError, match="6 crops and 4 shards"):
        shard_capacity(np.zeros(6, np.int64), 4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        mask_counts(8, 16, 0.5, (0.5, 0.1))
