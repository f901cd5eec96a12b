"""How latents lie in an image and among images: spectra, likeness of cells, neighbors.

Latents are float arrays `[count, height, width, channels]`, a cell is one position of
the grid. What is measured for each image is returned so, for intervals over images.
"""

from collections.abc import Iterator
import itertools

from jaxtyping import Bool, Float, Int
import numpy as np
from scipy.fft import dctn

from vtp_eqx.config import require
from vtp_eqx.evaluation.accuracy import check_rows, nearest_rows, unit


Latents = Float[np.ndarray, "count height width channels"]
PerImage = Float[np.ndarray, " count"]

CHUNK = 256  # images whose cells are compared at once
# iREPA's code takes cells 6 apart or more as far on a grid of 16: .375 of its height.
FAR = 0.375


def energy_maps(latents: Latents) -> Float[np.ndarray, "count height width"]:
    """The energy of each image by frequency, summed over channels.

    That of the orthonormal cosine transform, so that it sums to that of the latents.
    """
    parts = [
        np.sum(np.asarray(dctn(chunk, axes=(1, 2), norm="ortho")) ** 2, axis=-1)
        for chunk in _chunks(latents)
    ]
    return np.concatenate(parts)


def is_high_frequency(
    height: int, width: int, share: float
) -> Bool[np.ndarray, "{height} {width}"]:
    """Which frequencies lie beyond that `share` of the largest."""
    frequency = np.add.outer(np.arange(height), np.arange(width))
    return frequency > share * (height - 1 + width - 1)


def grid_distances(height: int, width: int) -> Int[np.ndarray, "cells cells"]:
    """Steps down and across from each cell of a grid to each other one."""
    down, across = np.divmod(np.arange(height * width), width)
    steps = lambda places: np.abs(np.subtract.outer(places, places))
    return steps(down) + steps(across)


def cosine_profile(
    latents: Latents, *, centered: bool
) -> Float[np.ndarray, "count distances"]:
    """For each image, the mean cosine of two cells by their distance, from 0 on.

    Where `centered`, the mean cell of an image is taken from its cells before.
    """
    distances = grid_distances(*latents.shape[1:3]).ravel()
    mean_at = distances[:, None] == np.arange(distances.max() + 1)
    mean_at = (mean_at / mean_at.sum(axis=0)).astype(np.float32)
    parts = [
        similarity.reshape(len(similarity), -1) @ mean_at
        for similarity in _cell_cosines(latents, centered=centered)
    ]
    return np.concatenate(parts)


def local_distance_similarity(
    profile: Float[np.ndarray, "count distances"],
    height: int,
    width: int,
    *,
    near: float,
    far: float,
) -> PerImage | None:
    """LDS: mean cosine of pairs of cells nearer than `near` less that of far ones.

    Far are those `far` apart or more; a cell and itself are no pair. `None` where the
    grid has no pair of one kind. Of iREPA (2512.10794).
    """
    pairs = np.bincount(grid_distances(height, width).ravel())
    distance = np.arange(len(pairs))
    is_near, is_far = (distance > 0) & (distance < near), distance >= far
    if not (is_near.any() and is_far.any()):
        return None
    mean = lambda chosen: profile[:, chosen] @ (pairs[chosen] / pairs[chosen].sum())
    return mean(is_near) - mean(is_far)


def far_distance(height: int, width: int) -> int:
    """From how many steps on cells are far from one another."""
    return max(2, round(FAR * (height + width) / 2))


def object_similarity(
    latents: Latents, foreground: Bool[np.ndarray, "count height width"]
) -> PerImage:
    """SRSS: whether cells of an object are like one another, and not like what is far.

    For each foreground cell, the mean cosine to foreground cells one step away less
    that to background cells that are far, where it has both; the mean over those. NaN
    for an image without any, as one that is all foreground. Of iREPA (2512.10794).
    """
    height, width = latents.shape[1:3]
    distances = grid_distances(height, width)
    near, far = distances == 1, distances >= far_distance(height, width)
    parts = []
    for similarity, mask in zip(
        _cell_cosines(latents, centered=False), _chunks(foreground), strict=True
    ):
        inside = mask.reshape(len(mask), 1, -1)
        differences = _masked_mean(similarity, inside & near) - _masked_mean(
            similarity, ~inside & far
        )
        is_anchor = inside[:, 0] & np.isfinite(differences)
        parts.append(_masked_mean(differences, is_anchor))
    return np.concatenate(parts)


def cell_masks(
    masks: Bool[np.ndarray, "count rows columns"], height: int, width: int
) -> Bool[np.ndarray, "count height width"]:
    """The cells of which more than half is foreground. The sides must be multiples."""
    count, rows, columns = masks.shape
    require(
        rows % height == 0 and columns % width == 0,
        f"`masks` ({rows} x {columns}) must have sides that are multiples of those of "
        f"the grid ({height} x {width}): resize them to the size of the images.",
    )
    blocks = masks.reshape(count, height, rows // height, width, columns // width)
    return blocks.mean(axis=(2, 4)) > 0.5


def pooled(
    latents: Latents, foreground: Bool[np.ndarray, "count height width"] | None = None
) -> Float[np.ndarray, "count channels"]:
    """The mean cell of each image, or its mean foreground cell where it has one."""
    if foreground is None:
        return latents.mean(axis=(1, 2))
    is_empty = ~foreground.any(axis=(1, 2), keepdims=True)
    weights = (foreground | is_empty).astype(latents.dtype)
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    return np.einsum("nhw,nhwc->nc", weights, latents)


def quarters(latents: Latents) -> Float[np.ndarray, "count four_channels"]:
    """The mean cells of the four quarters of each image, joined; sides must be even."""
    count, height, width, channels = latents.shape
    blocks = latents.reshape(count, 2, height // 2, 2, width // 2, channels)
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def neighbor_shares(
    rows: Float[np.ndarray, "count width"],
    labels: Int[np.ndarray, " count"],
    num_neighbors: int,
) -> tuple[PerImage, PerImage]:
    """LNC: the share of each row's nearest others with its label, and that by chance.

    Nearest by cosine after the mean of all rows was taken from each. One neighbor is
    GSQ of 2605.07915.
    """
    check_rows("rows", rows, labels)
    require(
        0 < num_neighbors < len(rows),
        f"`num_neighbors` ({num_neighbors}) must be fewer than the {len(rows)} rows: "
        "evaluate more images.",
    )
    rows = unit(rows - rows.mean(axis=0))
    parts = [
        (labels[nearest] == labels[block, None]).mean(axis=1)
        for block, nearest, _ in nearest_rows(rows, rows, num_neighbors, is_same=True)
    ]
    _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return np.concatenate(parts), (sizes[which] - 1) / (len(rows) - 1)


def local_correlation(latents: Latents) -> PerImage:
    """The mean cosine of two cells of a 2 x 2 window, over windows that touch.

    The mean over channels is taken from each cell before, so that it is a correlation.
    Of SSVAE (2512.05394). Height and width must be 2 or more.
    """
    cells = unit(latents - latents.mean(axis=-1, keepdims=True))
    height, width = latents.shape[1:3]
    corners = [
        cells[:, i : i + height - 1, j : j + width - 1] for i in (0, 1) for j in (0, 1)
    ]
    pairs = [
        np.einsum("nhwc,nhwc->n", first, second)
        for first, second in itertools.combinations(corners, 2)
    ]
    return np.mean(pairs, axis=0) / ((height - 1) * (width - 1))


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _cell_cosines(
    latents: Latents, *, centered: bool
) -> Iterator[Float[np.ndarray, "some cells cells"]]:
    for chunk in _chunks(latents):
        cells = chunk.reshape(len(chunk), -1, chunk.shape[-1])
        if centered:
            cells = cells - cells.mean(axis=1, keepdims=True)
        cells = unit(cells)
        yield cells @ cells.transpose(0, 2, 1)


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over the last axis where `mask`; NaN where it is nowhere."""
    count = mask.sum(axis=-1)
    total = np.where(mask, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
