"""Reconstruction quality: PSNR, SSIM, LPIPS and rFID.

PSNR and SSIM act on one pair of float images in `[0, 1]`, and are averaged over images,
never over pooled pixels. Reconstructions are rounded to bytes before, as they would be
saved; VTP's tools do not round for PSNR and SSIM, and truncate for FID.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.batches import BYTES, reconstruct
from vtp_eqx.evaluation.card import Numbers, settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig, FeatureTable
from vtp_eqx.evaluation.frechet import frechet_distance
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import (
    DISTANCE_NAMES,
    FeatureNetwork,
    of_reconstructions,
    PerceptualNetwork,
)
from vtp_eqx.models.tokenizer import Tokenizer


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
    require(
        min(height, width) >= WINDOW,
        f"SSIM takes images of at least {WINDOW} x {WINDOW} pixels; got "
        f"{height} x {width}: enlarge both images.",
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


class MeasuredTokenizer(eqx.Module):
    """A tokenizer, and the networks that compare its reconstructions with images."""

    tokenizer: Tokenizer
    network: FeatureNetwork
    perceptual: PerceptualNetwork | None = None


def compare(models: MeasuredTokenizer, image: Any) -> dict[str, Any]:
    """PSNR, SSIM, maybe LPIPS and features of one image and its reconstruction."""
    again = reconstruct(models.tokenizer, image)
    answers = {
        "PSNR": psnr(again, image),
        "SSIM": ssim(again, image),
        "features": models.network(again).features,
        "real features": models.network(image).features,
    }
    if models.perceptual is not None:
        answers["LPIPS"] = models.perceptual(again, image)
    return answers


def reconstruction_psnr(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The first number of `compare` alone, which takes no network."""
    return {"PSNR": psnr(reconstruct(tokenizer, image), image)}


def mean_score(seen: FeatureTable, name: str) -> float:
    """The average of one number of `compare` over all images."""
    return float(np.mean(seen.column(name)))


def reconstruction_numbers(
    seen: FeatureTable, models: MeasuredTokenizer
) -> dict[str, float]:
    """PSNR, SSIM and maybe LPIPS averaged over images, and rFID under its name.

    `seen` is what `compare` gave; the distance is to the same images.
    """
    means = ("PSNR", "SSIM", *(["LPIPS"] if models.perceptual else []))
    distance = frechet_distance(seen.moments("features"), seen.moments("real features"))
    name = of_reconstructions(DISTANCE_NAMES[models.network.name])
    return {**{name: mean_score(seen, name) for name in means}, name: distance}


def reconstruction(
    tokenizer: Tokenizer,
    images: Images,
    network: FeatureNetwork,
    place: ExtractConfig,
    *,
    perceptual: PerceptualNetwork | None = None,
) -> Numbers:
    """PSNR, SSIM, rFID (or what it is called in this network) and maybe LPIPS.

    All of reconstructions that were clipped and rounded to bytes, as they would be
    saved: PSNR, SSIM and LPIPS are averaged over images, and the distance is to the
    same images.
    """
    network.check_size(images.crop.size)
    models = MeasuredTokenizer(tokenizer, network, perceptual)
    seen = extract_features(compare, models, images, place, stage="reconstruction")
    lpips = "" if perceptual is None else f"{perceptual.hash} {perceptual.origin}"
    protocol = f"{BYTES}, {settings(perceptual=lpips.rstrip())}".removesuffix(", ")
    card = tokenizer_card(tokenizer, seen, images, protocol, network=network)
    numbers = reconstruction_numbers(seen, models)
    return write_numbers(numbers, card, seen, place, "reconstruction")
