"""A small decoder from latents to the features of another network."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import Precision, TransformerConfig
from vtp_eqx.models.decoder import latent_tokens
from vtp_eqx.models.encoder import vision_stack
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm
from vtp_eqx.nn.transformer import Transformer


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
            tokens = latent_tokens(grid, self.embed, self.stack, self.norm, self.rope)
            return self.out(tokens).reshape(*grid.shape[:2], -1)

        return jax.vmap(one)(latents)
