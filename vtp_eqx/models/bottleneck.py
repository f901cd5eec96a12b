"""The bottleneck: features to latents."""

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import LatentNorm, TokenizerConfig
from vtp_eqx.nn.linear import Linear, orthogonal, product
from vtp_eqx.nn.norms import rms_normalized


class Bottleneck(eqx.Module):
    """A bias-free linear map along the last axis, and a norm where one is asked for.

    With the norm "rms" each latent vector has a root mean square of 1: a guard of the
    scale, without parameters, after PAE (https://arxiv.org/abs/2605.07915).
    """

    weight: Float[Array, "channels width"]
    norm: LatentNorm = eqx.field(static=True)

    def __init__(self, config: TokenizerConfig, *, key: PRNGKeyArray):
        linear = Linear(
            config.readout_width, config.latent_width, use_bias=False, key=key
        )
        if config.latent_init == "orthogonal":
            linear = orthogonal(linear, key=key)
        self.weight = linear.weight
        self.norm = config.latent_norm

    def __call__(
        self, features: Float[Array, "*axes width"]
    ) -> Float[Array, "*axes channels"]:
        latents = product(features, self.weight)
        return latents if self.norm == "none" else rms_normalized(latents)
