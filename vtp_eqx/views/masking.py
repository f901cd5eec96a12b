"""Which patches the student does not see: exact counts, so that shapes are static.

How many patches each slot of the batch hides is decided once, on the host; where they
lie is drawn anew in every step. The total is then a constant and the masked patches
can be gathered into an array without a margin.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import require


_BLOCK_TRIES = 24
_SMALLEST_BLOCK = 4
_LOG_ASPECT = math.log(1 / 0.3)  # blocks have height over width in [0.3, 1/0.3]


def mask_counts(
    num_images: int, num_patches: int, rate: float, ratio: tuple[float, float]
) -> Int[np.ndarray, " num_images"]:
    """How many patches are hidden in each of `num_images` crops.

    A share `rate` of the crops is masked, with ratios spaced evenly up to `ratio[1]`;
    the others hide nothing. Neighbors get different counts, so that equal contiguous
    shards have nearly equal totals, and so have the even and the odd crops.

    The counts are those of DINOv3, `collate.py` (Siméoni et al. 2025,
    https://arxiv.org/abs/2508.10104); the fixed order is ours.
    """
    require(
        0 <= rate <= 1 and 0 <= ratio[0] <= ratio[1] <= 1,
        f"Rates of masking lie between 0 and 1; got {rate} and {ratio}: fix them.",
    )
    num_masked = int(num_images * rate)
    # In float32, as the reference: a rounded product may be one patch less.
    edges = np.linspace(*ratio, num_masked + 1, dtype=np.float32)[1:]
    counts = np.zeros(num_images, np.int64)
    counts[num_images - num_masked :] = (np.float32(num_patches) * edges).astype(int)
    # Multiples of the golden ratio fill the circle evenly, also every second of them.
    places = np.arange(num_images) * ((math.sqrt(5) - 1) / 2) % 1
    return counts[np.argsort(np.argsort(places))]


def shard_capacity(counts: Int[np.ndarray, " num_images"], num_shards: int) -> int:
    """The largest total of hidden patches in one of equal contiguous shards."""
    require(
        len(counts) % num_shards == 0,
        "Crops must split evenly over the shards; got "
        f"{len(counts)} crops and {num_shards} shards: change either.",
    )
    return int(counts.reshape(num_shards, -1).sum(axis=1).max())


def block_mask(
    count: Int[Array, ""], grid: tuple[int, int], *, key: PRNGKeyArray
) -> Bool[Array, " patches"]:
    """A mask with exactly `count` of `height * width` patches `True`, in row order.

    Random rectangles are hidden as long as they fit into the count, and single random
    patches make up the rest. BEiT (Bao et al. 2021, https://arxiv.org/abs/2106.08254,
    Algorithm 1), with a fixed number of tries in place of an open loop.
    """
    height, width = grid
    num_patches = height * width
    draws = jr.uniform(key, (4 * _BLOCK_TRIES + num_patches,))
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

    def try_block(mask, draws):
        remaining = count - mask.sum()
        most = jnp.minimum(remaining, num_patches / 2)
        area = _SMALLEST_BLOCK + (most - _SMALLEST_BLOCK) * draws[0]
        aspect = jnp.exp(_LOG_ASPECT * (2 * draws[1] - 1))
        block_height = jnp.round(jnp.sqrt(area * aspect))
        block_width = jnp.round(jnp.sqrt(area / aspect))
        top = jnp.floor(draws[2] * (height - block_height + 1))
        left = jnp.floor(draws[3] * (width - block_width + 1))
        larger = mask | (rows >= top) & (rows < top + block_height) & (
            columns >= left
        ) & (columns < left + block_width)
        fits = (block_height < height) & (block_width < width)
        return jnp.where(fits & (larger.sum() <= count), larger, mask), None

    # Made of `count`, because inside `shard_map` a carry must vary like its inputs.
    mask = jnp.broadcast_to(count < 0, grid)
    tries = draws[: 4 * _BLOCK_TRIES].reshape(_BLOCK_TRIES, 4)
    mask, _ = jax.lax.scan(try_block, mask, tries)

    # Hidden patches come first, then the others in random order.
    order = jnp.argsort(draws[4 * _BLOCK_TRIES :] - mask.reshape(-1))
    return jnp.argsort(order) < count


def uniform_masks(
    num_images: int,
    num_patches: int,
    ratio: tuple[float, float],
    *,
    key: PRNGKeyArray,
) -> Bool[Array, "{num_images} {num_patches}"]:
    """Masks of single patches, `True` in a share of them that is drawn for each image.

    Shares are uniform in `ratio`; below 0 nothing is hidden. DeTok, section 3.3
    (https://arxiv.org/abs/2507.15856); theirs are drawn once a batch.
    """
    ratio_key, order_key = jr.split(key)
    shares = jr.uniform(ratio_key, (num_images, 1), minval=ratio[0], maxval=ratio[1])
    counts = jnp.floor(num_patches * jnp.maximum(shares, 0))
    order = jnp.argsort(jr.uniform(order_key, (num_images, num_patches)), axis=1)
    return jnp.argsort(order, axis=1) < counts


def masked_rows(
    masks: Bool[Array, "n patches"], capacity: int
) -> tuple[Int[Array, " {capacity}"], Float[Array, " {capacity}"]]:
    """Where the hidden patches are among all `n * patches`, and what each weighs.

    Returns their positions, filled up with zeros to `capacity`, and the weights: one
    over the number of hidden patches of the same image, 0 for filling. Where more are
    hidden than `capacity` (see `shard_capacity`), all weights are NaN.
    """
    rows = jnp.flatnonzero(masks, size=capacity, fill_value=0)
    totals = masks.sum(axis=1)
    weights = 1 / jnp.maximum(totals, 1).astype(jnp.float32)
    weights = weights[rows // masks.shape[1]]
    total = totals.sum()
    weights = jnp.where(jnp.arange(capacity) < total, weights, 0.0)
    return rows, jnp.where(total <= capacity, weights, jnp.nan)
