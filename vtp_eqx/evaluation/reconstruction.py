"""How close a reconstruction is to its image: PSNR and SSIM.

Both act on one pair of float images in `[0, 1]`, and are averaged over images, never
over pooled pixels. Reconstructions are rounded to bytes before, as they would be saved;
VTP's tools do not round for PSNR and SSIM, and truncate for FID.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np


WINDOW = 11  # Wang et al. 2004: pixels a side
WINDOW_SIGMA = 1.5  # Wang et al. 2004: pixels
MEAN_OFFSET = 0.01**2  # Wang et al. 2004: (K1 L)^2, where the range L is 1
VARIANCE_OFFSET = 0.03**2  # Wang et al. 2004: (K2 L)^2


def psnr(
    image: Float[Array, "height width channels"],
    target: Float[Array, "height width channels"],
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in decibels for a range of 1; infinite if equal."""
    return -10 * jnp.log10(jnp.mean((image - target) ** 2))


def ssim(
    image: Float[Array, "height width channels"],
    target: Float[Array, "height width channels"],
) -> Float[Array, ""]:
    """Mean structural similarity for a range of 1, at most 1 and 1 only if equal.

    Averages over channels and over windows that lie inside the image, which is what
    torchmetrics does with its default window.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, equation 13.
    """
    height, width, _ = image.shape
    if min(height, width) < WINDOW:
        raise ValueError(
            f"SSIM takes images of at least {WINDOW} x {WINDOW} pixels; got "
            f"{height} x {width}: enlarge both images."
        )
    down, across = window_rows(height), window_rows(width)

    def windowed(pixels: Array) -> Array:
        # Full precision, because variances are small differences of large means.
        return jnp.einsum(
            "ih,hwc,jw->ijc", down, pixels, across, precision=jax.lax.Precision.HIGHEST
        )

    mean_x, mean_y = windowed(image), windowed(target)
    variance_x = windowed(image**2) - mean_x**2
    variance_y = windowed(target**2) - mean_y**2
    covariance = windowed(image * target) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + MEAN_OFFSET) / (
        mean_x**2 + mean_y**2 + MEAN_OFFSET
    )
    structure = (2 * covariance + VARIANCE_OFFSET) / (
        variance_x + variance_y + VARIANCE_OFFSET
    )
    return jnp.mean(luminance * structure)


def window_rows(size: int) -> Float[np.ndarray, "windows {size}"]:
    """The Gaussian window at every place it fits on a line of `size` pixels."""
    offsets = np.arange(WINDOW) - (WINDOW - 1) / 2
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights /= weights.sum()
    rows = np.zeros((size - WINDOW + 1, size), dtype=np.float32)
    for start, row in enumerate(rows):
        row[start : start + WINDOW] = weights
    return rows


def reconstruction_scores(
    images: UInt8[np.ndarray, "batch height width 3"],
    reconstructions: UInt8[np.ndarray, "batch height width 3"],
) -> dict[str, Float[Array, " batch"]]:
    """`psnr` and `ssim` of each pair of images, both as they are saved."""
    unit = lambda pixels: jnp.asarray(pixels, jnp.float32) / 255
    return _scores(unit(reconstructions), unit(images))


@eqx.filter_jit
def _scores(
    images: Float[Array, "batch height width 3"],
    targets: Float[Array, "batch height width 3"],
) -> dict[str, Float[Array, " batch"]]:
    return {
        "psnr": jax.vmap(psnr)(images, targets),
        "ssim": jax.vmap(ssim)(images, targets),
    }
