"""Equivariance of the decoder to scale and to rotation: controls.

What is done to latents is done to pixels: the decoder is asked for the same of both.
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.equivariance import shrunk, turned
from vtp_eqx.training.parameter_counts import decoder_flops
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.terms.reconstruction import lpips_flops, pixel_loss
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class ScaleEquivariance(SubsetTerm):
    """Smaller latents stand for a smaller image.

    Skorokhodov et al. 2025, "Improving the Diffusability of Autoencoders",
    https://arxiv.org/abs/2502.14831.
    """

    config: PretrainConfig
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "scale_equivariance"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        factor = self.config.controls.scale_factor
        return _decoded_loss(self, rows, lambda grids: shrunk(grids, factor))

    def flops(self) -> TermFlops:
        return _decoded_flops(self, self.config.controls.scale_factor)


@dataclasses.dataclass(frozen=True)
class RotationEquivariance(SubsetTerm):
    """Latents turned by one to three quarters stand for the image turned so.

    Kouzelis et al. 2025, "EQ-VAE", https://arxiv.org/abs/2502.09509: its rotations.
    """

    config: PretrainConfig
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "rotation_equivariance"

    def draw(self, key: PRNGKeyArray) -> Int[Array, " rebuilt"]:
        return jr.randint(key, (self.batch_size,), 1, 4)

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        turns = rows.views.draws[self.name]
        return _decoded_loss(self, rows, lambda grids: turned(grids, turns))

    def flops(self) -> TermFlops:
        return _decoded_flops(self, 1)


def _decoded_loss(
    term: ScaleEquivariance | RotationEquivariance,
    rows: Microbatch,
    transform: Callable[[Array], Array],
) -> Float[Array, " rows"]:
    """The pixel loss of decoded latents to pixels, of which both were transformed."""
    tokenizer, subset = rows.student.tokenizer, rows.passes.subset
    return pixel_loss(
        tokenizer.decoder.batch(transform(subset.latents)), transform(subset.pixels),
        term.config.reconstruction,
        cast_params(term.perceptual, term.config.precision), tokenizer.denormalize,
    )  # fmt: skip


def _decoded_flops(
    term: ScaleEquivariance | RotationEquivariance, factor: int
) -> TermFlops:
    """Of decoding latents that are `factor` times smaller along both sides."""
    config, tokenizer = term.config, term.config.tokenizer
    return TermFlops(
        student=decoder_flops(tokenizer) / factor**2,
        subset_pass=term.encoder_flops,
        frozen=lpips_flops(config.reconstruction, tokenizer.image_size // factor),
    )
