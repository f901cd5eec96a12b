"""Reconstruction for a decoder alone: pixels from latents that stay as they are."""

import dataclasses
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from vtp_eqx.config import DecodeConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.parameter_counts import decoder_flops, perceptual_flops
from vtp_eqx.training.pixels import pixel_loss
from vtp_eqx.training.terms.term import Microbatch, Term, TermFlops


class DecoderViews(eqx.Module):
    """Raw latents, noisy where asked for, and the normalized pixels they stand for."""

    latents: Float[Array, "batch rows columns channels"]
    pixels: Float[Array, "batch height width 3"]


@dataclasses.dataclass(frozen=True)
class LatentsToPixels(Term):
    """The weighted pixel losses of `tokenizer`'s decoder, which is the student.

    Its views are `DecoderViews`. `perceptual` is the network of LPIPS, where that has a
    weight.
    """

    config: DecodeConfig
    tokenizer: Tokenizer
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "reconstruction"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        return pixel_loss(
            rows.student.batch(rows.views.latents), rows.views.pixels,
            self.config.reconstruction, self.perceptual, self.tokenizer.denormalize,
        )  # fmt: skip

    def flops(self) -> TermFlops:
        config = self.tokenizer.config
        is_perceptual = self.config.reconstruction.uses_perceptual
        return TermFlops(
            student=decoder_flops(config),
            frozen=3 * perceptual_flops(config.image_size) if is_perceptual else 0.0,
        )
