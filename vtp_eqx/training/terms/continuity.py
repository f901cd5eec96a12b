"""Continuity of the decoder: images change little as latents turn. A control."""

import dataclasses
from typing import ClassVar

from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import PretrainConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.latents import rotated_from
from vtp_eqx.training.parameter_counts import decoder_flops
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.terms.reconstruction import lpips_flops, pixel_loss
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class Continuity(SubsetTerm):
    """Latents are turned to a random direction by two angles, one after the other.

    The image after each is compared with that before, which gets no gradient. "Prior
    Aligned Autoencoders" (PAE), https://arxiv.org/abs/2605.07915: its MCR.
    """

    config: PretrainConfig
    perceptual: Perceptual | None = None
    name: ClassVar[str] = "continuity"

    def draw(self, key: PRNGKeyArray) -> Float[Array, "rebuilt rows columns channels"]:
        return self.latent_noise(key)

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        config, tokenizer = self.config, rows.student.tokenizer
        perceptual = cast_params(self.perceptual, config.precision)
        latents, noise = rows.passes.subset.latents, rows.views.draws[self.name]
        before, losses = rows.passes.rebuilt, []
        for degrees in config.controls.continuity_degrees:
            after = tokenizer.decoder.batch(rotated_from(latents, noise, degrees))
            losses.append(
                pixel_loss(
                    after, lax.stop_gradient(before), config.reconstruction,
                    perceptual, tokenizer.denormalize,
                )
            )  # fmt: skip
            before = after
        return sum(losses[1:], losses[0])

    def flops(self) -> TermFlops:
        """Two decodings, and a third where reconstruction decodes noisy latents."""
        config = self.config
        side = config.tokenizer.image_size
        num_decoded = 3 if config.latent_noise > 0 else 2
        return TermFlops(
            student=num_decoded * decoder_flops(config.tokenizer),
            subset_pass=self.encoder_flops,
            frozen=2 * lpips_flops(config.reconstruction, side),
        )
