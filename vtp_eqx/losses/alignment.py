"""Alignment of latents with the features of a frozen vision model (VA-VAE).

Both are grids over the same positions. Gradients flow into both arguments; whoever made
the frozen features stops theirs.

Yao et al. 2025, https://arxiv.org/abs/2501.01423, section 3.2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from vtp_eqx.losses.checks import require_finite
from vtp_eqx.losses.cosines import pairwise_cosine, unit_norm


def cosine_loss(
    latents: Float[Array, "batch height width channels"],
    features: Float[Array, "batch height width channels"],
    *,
    margin: ScalarLike,
) -> Float[Array, " batch"]:
    """By how much latents turn away from the features at their position (mcos).

    - `latents`: after their linear map to the features' width.
    - `margin`: cosines above `1 - margin` cost nothing. The released VA-VAE ends
        with 0.5.

    For each image, the mean over positions, between 0 and `2 - margin`.
    """
    require_finite(latents=latents, features=features)
    cosine = jnp.sum(unit_norm(latents) * unit_norm(features), axis=-1)
    return jnp.mean(jax.nn.relu(1 - margin - cosine), axis=(1, 2))


def similarity_loss(
    latents: Float[Array, "batch height width channels"],
    features: Float[Array, "batch height width feature_channels"],
    *,
    margin: ScalarLike,
) -> Float[Array, " batch"]:
    """By how much cosines between positions differ from those of the features (mdms).

    - `latents`, `features`: their widths may differ, since each is compared with
        itself.
    - `margin`: differences up to it cost nothing. The released VA-VAE ends with 0.25.

    For each image, the mean over all pairs of positions, between 0 and `2 - margin`.
    """
    require_finite(latents=latents, features=features)
    difference = jnp.abs(_similarities(latents) - _similarities(features))
    return jnp.mean(jax.nn.relu(difference - margin), axis=(1, 2))


def _similarities(
    grid: Float[Array, "batch height width channels"],
) -> Float[Array, "batch positions positions"]:
    batch, height, width, channels = grid.shape
    directions = unit_norm(grid.reshape(batch, height * width, channels))
    return pairwise_cosine(directions, directions)
