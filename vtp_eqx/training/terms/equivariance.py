"""Equivariance of the decoder to scale and to rotation: controls.

What is done to latents is done to pixels: the decoder is asked for the same of both.
"""

from collections.abc import Callable
from typing import ClassVar

import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.losses.equivariance import shrunk, turned
from vtp_eqx.training.terms.reconstruction import PixelTerm
from vtp_eqx.training.terms.term import Microbatch, TermFlops


class ScaleEquivariance(PixelTerm):
    """Smaller latents stand for a smaller image.

    Skorokhodov et al. 2025, "Improving the Diffusability of Autoencoders",
    https://arxiv.org/abs/2502.14831.
    """

    name: ClassVar[str] = "scale_equivariance"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        factor = self.config.controls.scale_factor
        return _decoded_loss(self, rows, lambda grids: shrunk(grids, factor))

    def flops(self) -> TermFlops:
        return self.decoding_flops(shrink=self.config.controls.scale_factor)


class RotationEquivariance(PixelTerm):
    """Latents turned by one to three quarters stand for the image turned so.

    Kouzelis et al. 2025, "EQ-VAE", https://arxiv.org/abs/2502.09509: its rotations.
    """

    name: ClassVar[str] = "rotation_equivariance"

    def draw(self, key: PRNGKeyArray) -> Int[Array, " rebuilt"]:
        return jr.randint(key, (self.batch_size,), 1, 4)

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        turns = rows.views.draws[self.name]
        return _decoded_loss(self, rows, lambda grids: turned(grids, turns))

    def flops(self) -> TermFlops:
        return self.decoding_flops()


def _decoded_loss(
    term: PixelTerm, rows: Microbatch, transform: Callable[[Array], Array]
) -> Float[Array, " rows"]:
    """The pixel loss of decoded latents to pixels, of which both were transformed."""
    subset = rows.passes.subset
    rebuilt = rows.student.tokenizer.decoder.batch(transform(subset.latents))
    return term.pixel_loss(rows, rebuilt, transform(subset.pixels))
