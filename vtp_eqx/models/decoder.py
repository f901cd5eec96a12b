"""Vision transformers from latents to normalized pixels, and to features."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import Precision, TransformerConfig
from vtp_eqx.models.encoder import vision_stack
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm
from vtp_eqx.nn.patches import unpatchify
from vtp_eqx.nn.rope import axial_table
from vtp_eqx.nn.transformer import Transformer


class PixelDecoder(eqx.Module):
    """A vision transformer from one latent per patch to that patch's pixels.

    No class token, no output activation: pixels are unclipped, in the normalized
    space that the encoder reads.
    """

    embed: Linear
    stack: Transformer
    norm: RMSNorm | LayerNorm
    to_pixels: Linear
    patch_size: int = eqx.field(static=True)
    rope: Precision = eqx.field(static=True)

    def __init__(
        self,
        config: TransformerConfig,
        latent_width: int,
        patch_size: int,
        rope: Precision,
        *,
        key: PRNGKeyArray,
    ):
        embed_key, stack_key, pixels_key = jr.split(key, 3)
        self.embed = Linear(latent_width, config.width, key=embed_key)
        self.stack = vision_stack(config, key=stack_key)
        self.norm = make_norm(config.norm, config.width)
        self.to_pixels = Linear(config.width, 3 * patch_size**2, key=pixels_key)
        self.patch_size = patch_size
        self.rope = rope

    def __call__(
        self, latents: Float[Array, "rows columns channels"]
    ) -> Float[Array, "height width 3"]:
        """The pixels of one image, `patch_size` times as high and wide as `latents`."""
        rows, columns, _ = latents.shape
        patches = self.to_pixels(self.tokens(latents))
        return unpatchify(patches, (rows, columns), self.patch_size)

    def tokens(
        self, latents: Float[Array, "rows columns channels"]
    ) -> Float[Array, "num_patches width"]:
        """The features that pixels are read off, one row a patch."""
        return _latent_tokens(latents, self.embed, self.stack, self.norm, self.rope)

    def batch(
        self, latents: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "batch height width 3"]:
        """The pixels of a batch."""
        return jax.vmap(self)(latents)


class FeatureDecoder(eqx.Module):
    """A vision transformer from one latent per patch to that patch's features.

    It is small, so that what it cannot make of latents must be in them. Shi et al. 2025
    (RecTok), https://arxiv.org/abs/2512.13421.
    """

    embed: Linear
    stack: Transformer
    norm: RMSNorm | LayerNorm
    out: Linear
    rope: Precision = eqx.field(static=True)

    def __init__(
        self,
        config: TransformerConfig,
        latent_width: int,
        feature_width: int,
        rope: Precision,
        *,
        key: PRNGKeyArray,
    ):
        embed_key, stack_key, out_key = jr.split(key, 3)
        self.embed = Linear(latent_width, config.width, key=embed_key)
        self.stack = vision_stack(config, key=stack_key)
        self.norm = make_norm(config.norm, config.width)
        self.out = Linear(config.width, feature_width, key=out_key)
        self.rope = rope

    def batch(
        self, latents: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """The features of a batch of grids, as the network computes."""

        def one(grid: Array) -> Array:
            tokens = _latent_tokens(grid, self.embed, self.stack, self.norm, self.rope)
            return self.out(tokens).reshape(*grid.shape[:2], -1)

        return jax.vmap(one)(latents)


def _latent_tokens(
    latents: Float[Array, "rows columns channels"],
    embed: Linear,
    stack: Transformer,
    norm: RMSNorm | LayerNorm,
    rope: Precision,
) -> Float[Array, "num_patches width"]:
    """What a transformer makes of a grid of latents, after its norm: a row a patch."""
    rows, columns, channels = latents.shape
    num_heads = stack.blocks.attention.num_heads
    head_width = embed.weight.shape[0] // num_heads
    rotate = axial_table(rows, columns, head_width, precision=rope)
    tokens = embed(latents.reshape(rows * columns, channels))
    return norm(stack(tokens, rotate=rotate))
