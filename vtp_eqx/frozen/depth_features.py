"""Features of a frozen network at several of its depths."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import require
from vtp_eqx.frozen.dinov2 import DinoV2
from vtp_eqx.frozen.encoder import FrozenEncoder


class DepthFeatures(eqx.Module):
    """The patch features of a network after some of its blocks, evenly spread.

    Of 12 blocks and 4 levels, after blocks 3, 6, 9 and 12. All pass the network's
    final norm. An image is resized to `side` pixels, a multiple of the patch size.
    """

    network: DinoV2 | FrozenEncoder
    num_levels: int = eqx.field(static=True)
    side: int = eqx.field(static=True)

    def __check_init__(self):
        depth, patch_size = self.network.depth, self.network.patch_size
        require(
            1 <= self.num_levels <= depth,
            f"`num_levels` ({self.num_levels}) must be 1 to {depth}, the blocks of the "
            "network: lower it.",
        )
        require(
            self.side % patch_size == 0 and self.side > 0,
            f"`side` ({self.side}) must be a multiple of the network's patches of "
            f"{patch_size} pixels: change it.",
        )

    def __call__(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, "levels num_patches features"]:
        """The features of one image with values in [0, 1]."""
        shape = (self.side, self.side, 3)
        if image.shape != shape:
            image = jax.image.resize(image, shape, "bilinear", antialias=True)
        depth, levels = self.network.depth, self.num_levels
        features = self.network.intermediate(image, depth)
        blocks = [round((n + 1) * depth / levels) - 1 for n in range(levels)]
        return jnp.stack([features[block].patches for block in blocks])
