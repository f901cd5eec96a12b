"""Whether samples are copies of training images: how often they are too near to one.

A sample is too near where its nearest training image is nearer than those of all but
few held-out images are to them. Comparing distances of samples and held-out images to
the training set is the test of Meehan et al. 2020, https://arxiv.org/abs/2004.05675;
the ratio of shares at one quantile is ours.
"""

from jaxtyping import Float, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.precision_recall import nearest_distances


QUANTILE = 0.05  # ours: of the held-out images' distances; a ratio is at most 20
SIDE = 8  # ours: of images whose pixels are compared


def copy_distance(
    train: Float[np.ndarray, "train width"],
    held_out: Float[np.ndarray, "count width"],
    *,
    quantile: float = QUANTILE,
) -> float:
    """The squared distance that the nearest training image of few held-out ones has.

    A share `quantile` of the held-out images, rows as the training images', is nearer.
    """
    return float(np.quantile(nearest_distances(held_out, train), quantile))


def copy_ratio(
    train: Float[np.ndarray, "train width"],
    samples: Float[np.ndarray, "count width"],
    distance: float,
    *,
    quantile: float = QUANTILE,
) -> float:
    """How many times as often samples are near to training images as held-out ones.

    `distance` is their `copy_distance` at this `quantile`. 1 where samples are drawn as
    held-out images were, and `1 / quantile` where all are copies. Above 1 is a sign and
    no proof of copies: samples that are all typical are near to training images too.
    """
    return float(np.mean(nearest_distances(samples, train) < distance) / quantile)


def coarse_pixels(
    images: UInt8[np.ndarray, "count size size 3"],
) -> Float[np.ndarray, "count numbers"]:
    """Pixels in [-0.5, 0.5] averaged over blocks to a side of 8, flat.

    Finer ones would compare noise, which no decoder keeps, and take much longer.
    """
    count, size = images.shape[:2]
    require(
        size % SIDE == 0,
        f"`images` (side {size}) must have a side that is a multiple of {SIDE}: resize "
        "them.",
    )
    block = size // SIDE
    blocks = images.reshape(count, SIDE, block, SIDE, block, 3)
    means = blocks.mean(axis=(2, 4), dtype=np.float32) / 255 - 0.5
    return means.reshape(count, -1)
