"""What a decoder learns alone: the pixels of latents that stay as they are."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
import numpy as np

from vtp_eqx.config import DecodeConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.models.input_checks import check_measured
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.objective import Objective
from vtp_eqx.training.pixels import require_perceptual_weights
from vtp_eqx.training.terms.latents_to_pixels import DecoderViews, LatentsToPixels
from vtp_eqx.training.terms.term import compose


class EncodedBatch(eqx.Module):
    """A batch for the decoder: images, and their raw latents."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    latents: Float[Array | np.ndarray, "batch rows columns channels"]


def decode_objective(
    config: DecodeConfig, tokenizer: Tokenizer, perceptual: Perceptual | None = None
) -> Objective:
    """Reconstruction of pixels from latents of `tokenizer`, which gets no gradient."""
    require_perceptual_weights(config.reconstruction, perceptual)
    check_measured(tokenizer.is_measured or config.latent_noise == 0)

    def make_views(batch: EncodedBatch, key: PRNGKeyArray) -> DecoderViews:
        latents = jnp.asarray(batch.latents)
        if config.latent_noise > 0:
            noise = jr.normal(key, latents.shape, jnp.float32)
            latents += config.latent_noise * tokenizer.latent_std * noise
        unit = jnp.asarray(batch.image).astype(jnp.float32) / 255
        return DecoderViews(latents, tokenizer.normalize(unit))

    return compose((LatentsToPixels(config, tokenizer, perceptual),), make_views)
