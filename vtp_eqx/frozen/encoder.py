"""The encoder of a tokenizer, for others to learn from: it learns nothing more."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import TokenizerConfig
from vtp_eqx.models.encoder import Encoder, Features
from vtp_eqx.models.tokenizer import normalize_pixels, Tokenizer


class FrozenEncoder(eqx.Module):
    """The encoder of a tokenizer: `network(image) -> Features`.

    Its features are those before the bottleneck, at full width. Whoever learns from
    them stops their gradient.
    """

    encoder: Encoder
    config: TokenizerConfig = eqx.field(static=True)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "FrozenEncoder":
        """The encoder of `tokenizer`, without its decoder and its text tower."""
        return cls(tokenizer.encoder, tokenizer.config)

    def __call__(self, image: Float[Array, "height width 3"]) -> Features:
        """The features of one image of values in [0, 1] that the patch divides."""
        pixels = normalize_pixels(self.config, jnp.asarray(image))
        return self.encoder(pixels.astype(self.encoder.cls_token.dtype))
