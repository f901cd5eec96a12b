"""Whether an encoder turns, mirrors and shrinks latents as its images are.

The error of scale and rotation is the weakest predictor of generation in "Diffusing in
the Right Space" (2606.03578): it tells whether a training for equivariance had effect.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from vtp_eqx.evaluation.batches import byte_levels
from vtp_eqx.evaluation.intervals import Estimate, ratio
from vtp_eqx.evaluation.latent_structure import Latents
from vtp_eqx.evaluation.reconstruction import psnr
from vtp_eqx.models.tokenizer import Tokenizer


def probed_latents(tokenizer: Tokenizer, image: Array) -> dict[str, Any]:
    """Latents of an image, its PSNR, and how far transforms and encoder disagree.

    The errors are summed over cells, by channel: of an image at half its size (the
    means of 2 x 2 pixels) against latents so, where both can be halved, of one turned
    by 90 degrees, and of one mirrored.
    """
    latents = tokenizer.encode(image)
    saved = byte_levels(tokenizer.decode(latents)) / 255
    answers = {"latents": latents, "PSNR": psnr(saved, image)}
    for name, transform in TRANSFORMS.items():
        sides = (*latents.shape[:2], *image.shape[:2])
        if name == "half size" and any(side % 2 for side in sides):
            continue
        error = tokenizer.encode(transform(image)) - transform(latents)
        answers[f"{name} error"] = jnp.sum(error**2, axis=(0, 1))
    return answers


def half_size(grid: Any) -> Any:
    """The means of 2 x 2 cells, as bilinear resizing gives them, without padding."""
    height, width, channels = grid.shape
    blocks = grid.reshape(height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(1, 3))


def quarter_turn(grid: Any) -> Any:
    """Turned by 90 degrees, against the clock."""
    return grid.swapaxes(0, 1)[::-1]


def mirrored(grid: Any) -> Any:
    """Left and right exchanged."""
    return grid[:, ::-1]


TRANSFORMS = {
    "half size": half_size, "quarter turn": quarter_turn, "mirrored": mirrored
}  # fmt: skip


def equivariance_error(
    name: str,
    errors: Float[np.ndarray, "count channels"],
    latents: Latents,
    deviation: Float[np.ndarray, " channels"],
) -> Estimate:
    """`|E(T x) - T E(x)|^2` over `|T E(x) - mean|^2`, each summed over images.

    `errors` are squares summed over cells, of raw `latents`; channels count by their
    `deviation`. 0 is equivariant, and 2 is what two unrelated encodings have.
    """
    transform = TRANSFORMS[name]
    turned = np.stack([transform(grid) for grid in latents])
    spread = np.sum((turned - turned.mean(axis=0)) ** 2, axis=(1, 2))
    weights = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1), 0) ** 2
    return ratio(errors @ weights, spread @ weights)
