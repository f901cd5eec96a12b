"""Distances between images, pixel by pixel and through small linear filters.

Images are float32 `[batch, height, width, channels]`; training compares them in
normalized pixel space. Every loss is a mean, so that its scale does not depend on size.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import require
from vtp_eqx.losses.checks import require_finite


Images = Float[Array, "batch height width channels"]
POOLS = (2, 4)


def l1_loss(prediction: Images, target: Images) -> Float[Array, " batch"]:
    """The mean absolute difference of each image, in units of a pixel value."""
    return _mean_size(_error(prediction, target))


def pooled_l1_loss(prediction: Images, target: Images) -> Float[Array, " batch"]:
    """The mean absolute difference of 2x2 and of 4x4 average-pooled images, averaged.

    Noise cancels within a pool, while an error of shade or layout does not. Height and
    width must be multiples of 4, else `ValueError`.
    """
    error = _error(prediction, target)
    batch, height, width, channels = error.shape
    require(
        height % max(POOLS) == 0 and width % max(POOLS) == 0,
        f"Height and width must be multiples of {max(POOLS)} to be pooled; got "
        f"{height} x {width}: change the image size, or leave the term out.",
    )

    def pooled(size):
        grid = (batch, height // size, size, width // size, size, channels)
        return jnp.mean(error.reshape(grid), axis=(2, 4))

    fine, coarse = (_mean_size(pooled(size)) for size in POOLS)
    return (fine + coarse) / 2


def gradient_l1_loss(prediction: Images, target: Images) -> Float[Array, " batch"]:
    """The mean absolute difference of neighboring pixels' differences, which are edges.

    Down and across count equally; a constant added to an image changes nothing. Height
    and width must be 2 or more, else `ValueError`.
    """
    error = _error(prediction, target)
    require(
        min(error.shape[1:3]) >= 2,
        "Height and width must be 2 or more for pixels to have neighbors; got "
        f"{error.shape[1]} x {error.shape[2]}.",
    )
    down = _mean_size(jnp.diff(error, axis=1))
    across = _mean_size(jnp.diff(error, axis=2))
    return (down + across) / 2


def _error(prediction: Images, target: Images) -> Images:
    # All filters are linear: filtering the error once is filtering both images.
    require_finite(prediction=prediction, target=target)
    return prediction.astype(jnp.float32) - target.astype(jnp.float32)


def _mean_size(error: Images) -> Float[Array, " batch"]:
    return jnp.mean(jnp.abs(error), axis=(1, 2, 3))
