"""Continuity of the decoder: images change little as latents turn. A control."""

from typing import ClassVar

from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.losses.latents import rotated_from
from vtp_eqx.training.parameter_counts import decoder_flops
from vtp_eqx.training.terms.reconstruction import PixelTerm
from vtp_eqx.training.terms.term import Microbatch, TermFlops


class Continuity(PixelTerm):
    """Latents are turned to a random direction by two angles, one after the other.

    The image after each is compared with that before, which gets no gradient. "Prior
    Aligned Autoencoders" (PAE), https://arxiv.org/abs/2605.07915: its MCR.
    """

    name: ClassVar[str] = "continuity"

    def draw(self, key: PRNGKeyArray) -> Float[Array, "rebuilt rows columns channels"]:
        return self.latent_noise(key)

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        decode = rows.student.tokenizer.decoder.batch
        latents, noise = rows.passes.subset.latents, rows.views.draws[self.name]
        before, losses = rows.passes.rebuilt, []
        for degrees in self.config.controls.continuity_degrees:
            after = decode(rotated_from(latents, noise, degrees))
            losses.append(self.pixel_loss(rows, after, lax.stop_gradient(before)))
            before = after
        return sum(losses[1:], losses[0])

    def flops(self) -> TermFlops:
        """Two decodings, and a third where reconstruction decodes noisy latents."""
        flops = self.decoding_flops(2)
        if self.config.latent_noise == 0:
            return flops
        third = decoder_flops(self.config.tokenizer)
        return flops._replace(student=flops.student + third)
