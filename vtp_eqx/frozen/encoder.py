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
        return self.encoder(self._pixels(image))

    def intermediate(
        self, image: Float[Array, "height width 3"], last: int
    ) -> list[Features]:
        """The features after each of the `last` blocks, first to last, normed."""
        return self.encoder.intermediate(self._pixels(image), last)

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        return self.config.encoder.depth

    @property
    def width(self) -> int:
        """The width of its features."""
        return self.config.encoder.width

    @property
    def patch_size(self) -> int:
        """The side of a patch in pixels."""
        return self.config.patch_size

    def _pixels(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, "height width 3"]:
        pixels = normalize_pixels(self.config, jnp.asarray(image))
        return pixels.astype(self.encoder.cls_token.dtype)
