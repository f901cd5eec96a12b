"""LPC: how far images go when their latents are pushed a little in any direction.

Local perceptual continuity of Prior-Aligned Autoencoders (2605.07915): the distance of
what is decoded of `z` and of `z + e` and `z - e`, where `e` has a random direction and
a length that is a share of that of `z`. Lower is more continuous, and a decoder that
ignores its latents has 0: read it beside the PSNR and the distance of two images.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Float
import numpy as np

from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.intervals import Estimate, ratio
from vtp_eqx.evaluation.latent_structure import Latents
from vtp_eqx.evaluation.networks import FeatureNetwork, PerceptualNetwork


SHARES = (0.1, 0.5, 1.0, 2.0)  # lengths of the step, of the length of the latents
WEIGHTS = np.array([1 / share for share in SHARES])
WEIGHTS = WEIGHTS / WEIGHTS.sum()
DIRECTIONS = 2  # ours: of each length, both ways
NUM_IMAGES = 256  # ours: of which it is measured; its error is then about 1%
BATCH = 32  # ours: of rows, each of which is many latents


class Continuity(eqx.Module):
    """A decoder and the networks that tell how different two images are."""

    decode: Callable[[Any], Any]
    network: FeatureNetwork | None = None
    perceptual: PerceptualNetwork | None = None

    def distances(self, image: Any, other: Any) -> dict[str, Any]:
        """By what is measured, the distance of two float images in [0, 1]."""
        distances = {"pixels": jnp.mean(jnp.abs(image - other))}
        if self.network is not None:
            step = self.network(image).features - self.network(other).features
            distances["features"] = jnp.linalg.norm(step)
        if self.perceptual is not None:
            distances["LPIPS"] = self.perceptual(image, other)
        return distances


def continuity_distances(models: Continuity, latents: Any) -> dict[str, Any]:
    """Distances of `latents[1:]` from the first, decoded and clipped: one image's."""
    decoded = lambda grid: jnp.clip(models.decode(grid), 0, 1)
    image = decoded(latents[0])
    return lax.map(lambda grid: models.distances(image, decoded(grid)), latents[1:])


def pushed_latents(
    latents: Latents,
    mean: Float[np.ndarray, " channels"],
    deviation: Float[np.ndarray, " channels"],
) -> Float[np.ndarray, "count steps height width channels"]:
    """Raw latents, and after them all that they are pushed to.

    Steps are taken in standardized latents, so that channels of large deviation are
    not all that matters, and the directions are the same in each call.
    """
    draw = np.random.default_rng(0)
    size = (len(latents), DIRECTIONS, *latents.shape[1:])
    directions = draw.normal(size=size).astype(np.float32)
    # A channel that never varies has deviation 0, and is not pushed.
    standardized = (latents - mean) / np.where(deviation > 0, deviation, 1)
    norm = lambda grids: np.sqrt(np.sum(grids**2, axis=(-3, -2, -1), keepdims=True))
    steps = directions / norm(directions) * norm(standardized)[:, None] * deviation
    pushed = [
        latents[:, None] + way * share * steps for share in SHARES for way in (1, -1)
    ]
    return np.concatenate([latents[:, None], *pushed], axis=1).astype(np.float32)


def continuity(
    models: Continuity,
    latents: Latents,
    mean: Float[np.ndarray, " channels"],
    deviation: Float[np.ndarray, " channels"],
) -> dict[str, Estimate]:
    """LPC by what is measured: "pixels", and where there are networks their distances.

    `mean` and `deviation` standardize the raw `latents` of a few hundred images. Those
    in pixels and features are over the distance of two different images; of LPIPS,
    which has a scale, both are given.
    """
    rows = pushed_latents(latents, mean, deviation)
    seen = in_batches(continuity_distances, models, rows, batch_size=BATCH)
    pairs = np.stack([latents, np.roll(latents, 1, axis=0)], axis=1)
    others = in_batches(continuity_distances, models, pairs, batch_size=BATCH)
    panel = {}
    for name, distances in seen.items():
        by_share = distances.reshape(len(distances), len(SHARES), -1).mean(axis=2)
        weighted = by_share @ WEIGHTS
        if name == "LPIPS":
            panel["LPIPS"] = ratio(weighted)
        relative = "LPIPS, relative" if name == "LPIPS" else name
        panel[relative] = ratio(weighted, others[name][:, 0])
    return panel
