"""Augmentation that gradients pass through: what a discriminator looks at.

A discriminator sees few images often. Changed at random, but all in the same ways
whether real or fake, they teach it no more than what distinguishes the two.

Zhao et al. 2020 (DiffAugment), https://arxiv.org/abs/2006.10738.
"""

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import AugmentConfig


NUM_DRAWS = 8  # of an image
Image = Float[Array, "height width 3"]


def augment(image: Image, config: AugmentConfig, draws: Float[Array, " 8"]) -> Image:
    """One image with values in [-1, 1], recolored, then moved, then with a hole.

    `draws` are uniform in [0, 1). What comes in from outside is 0, which is gray, and
    so is the hole.
    """
    if config.rate == 0:
        return image
    changed = image
    if config.color:
        changed = _recolor(changed, draws[0:3])
    if config.translation > 0:
        changed = _translate(changed, config.translation, draws[3:5])
    if config.cutout > 0:
        changed = _cut_out(changed, config.cutout, draws[5:7])
    return jnp.where(draws[7] < config.rate, changed, image)


def round_to_bytes(image: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Colors of [0, 1] as they are saved: clipped, and of 256 levels.

    The gradient is that of clipping alone (straight through). Unrounded, a fake image
    is known by its colors between levels.
    """
    clipped = jnp.clip(image, 0, 1)
    return clipped + lax.stop_gradient(jnp.round(clipped * 255) / 255 - clipped)


def _recolor(image: Image, draws: Float[Array, " 3"]) -> Image:
    image = image + (draws[0] - 0.5)
    gray = jnp.mean(image, axis=-1, keepdims=True)
    image = (image - gray) * (2 * draws[1]) + gray
    mean = jnp.mean(image)
    return (image - mean) * (draws[2] + 0.5) + mean


def _translate(image: Image, ratio: float, draws: Float[Array, " 2"]) -> Image:
    height, width, channels = image.shape
    most = (_round(height * ratio), _round(width * ratio))
    padded = jnp.pad(image, ((most[0], most[0]), (most[1], most[1]), (0, 0)))
    # From 0, moved down by `most`, to twice that: moved up.
    down, across = (
        jnp.floor(draw * (2 * size + 1)).astype(jnp.int32)
        for draw, size in zip(draws, most, strict=True)
    )
    return lax.dynamic_slice(padded, (down, across, 0), (height, width, channels))


def _cut_out(image: Image, ratio: float, draws: Float[Array, " 2"]) -> Image:
    inside = []
    for draw, length in zip(draws, image.shape[:2], strict=True):
        size = _round(length * ratio)
        # The middle may lie anywhere, so that part of the hole may be outside.
        first = jnp.floor(draw * (length + 1 - size % 2)) - size // 2
        place = jnp.arange(length)
        inside.append((place >= first) & (place < first + size))
    hole = inside[0][:, None] & inside[1]
    return jnp.where(hole[..., None], 0.0, image)


def _round(value: float) -> int:
    return int(value + 0.5)
