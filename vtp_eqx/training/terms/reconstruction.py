"""Reconstruction: the pixels of some images from their latents."""

import dataclasses
from typing import ClassVar

from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import PretrainConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.latents import channel_variance
from vtp_eqx.mesh import DATA
from vtp_eqx.training.parameter_counts import (
    decoder_flops,
    encoder_flops,
    perceptual_flops,
)
from vtp_eqx.training.pixels import pixel_loss, require_perceptual_weights
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.pretrain_term import PretrainTerm
from vtp_eqx.training.terms.term import Microbatch, TermFlops


@dataclasses.dataclass(frozen=True)
class Reconstruction(PretrainTerm):
    """The weighted pixel losses (VTP section 3.2), noise on latents where asked for.

    `perceptual` is the network of LPIPS, where that has a weight.
    """

    config: PretrainConfig
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "reconstruction"
    batch: ClassVar[str] = "reconstruction_batch"
    needs: ClassVar[Needs] = Needs.SUBSET

    def check(self) -> None:
        require_perceptual_weights(self.config.reconstruction, self.perceptual)

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        config, tokenizer = self.config, rows.student.tokenizer
        subset = rows.passes.subset
        latents = subset.latents
        if rows.views.noise is not None:
            # Looks at the whole batch: the config refuses it with microbatches.
            spread = jnp.sqrt(channel_variance(latents, axis_name=DATA))
            # Without a gradient, or latents would learn to spread less.
            noise = config.latent_noise * lax.stop_gradient(spread) * rows.views.noise
            latents = latents + noise
        return pixel_loss(
            tokenizer.decoder.batch(latents), subset.pixels, config.reconstruction,
            cast_params(self.perceptual, config.precision), tokenizer.denormalize,
        )  # fmt: skip

    def flops(self) -> TermFlops:
        tokenizer = self.config.tokenizer
        is_perceptual = self.config.reconstruction.uses_perceptual
        # LPIPS: two images forward, and one of them backward to no weight of its own.
        return TermFlops(
            student=decoder_flops(tokenizer),
            subset_pass=encoder_flops(tokenizer, tokenizer.image_size),
            frozen=3 * perceptual_flops(tokenizer.image_size) if is_perceptual else 0.0,
        )
