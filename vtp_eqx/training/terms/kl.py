"""A posterior of latents and its divergence from the standard normal law: a control."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.losses.latents import kl_loss
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.nn.linear import Linear
from vtp_eqx.training.terms.encoder_passes import POSTERIOR
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops, TermLoss


class KL(SubsetTerm):
    """Latents that are decoded are drawn, around what `encode` returns (LDM, VA-VAE).

    The variance is read off the features by a head of this term alone: the tokenizer is
    that of every other training. In the passes (`EncoderPasses.subset`) the head makes
    latents of what is drawn here.
    """

    name: ClassVar[str] = POSTERIOR

    def make_head(self, key: PRNGKeyArray) -> Linear:
        """Features to the log of the variance of each number."""
        tokenizer = self.config.tokenizer
        head = Linear(tokenizer.readout_width, tokenizer.latent_width, key=key)
        start = jnp.full(
            tokenizer.latent_width, self.config.controls.kl_log_variance, jnp.float32
        )
        return eqx.tree_at(lambda head: head.bias, head, start)

    def draw(self, key: PRNGKeyArray) -> Float[Array, "rebuilt rows columns channels"]:
        return self.latent_noise(key)

    def forward(self, rows: Microbatch) -> dict[str, Float[Array, " rows"]]:
        subset = rows.passes.subset
        deviation = jnp.exp(subset.log_variance / 2).mean(axis=(1, 2, 3))
        return {
            "nats": kl_loss(subset.mean, subset.log_variance),
            "deviation": deviation,
        }

    def loss(
        self, student: Pretrainer, outputs: dict[str, Float[Array, " rows"]]
    ) -> TermLoss:
        """A sum over latents beside a mean over pixel values: LDM's weights fit it."""
        tokenizer = self.config.tokenizer
        share = tokenizer.latent_width / (3 * tokenizer.patch_size**2)
        monitors = {
            "kl_per_latent": outputs["nats"],
            "posterior_deviation": outputs["deviation"],
        }
        return TermLoss(share * outputs["nats"], monitors)

    def flops(self) -> TermFlops:
        tokenizer = self.config.tokenizer
        positions = (tokenizer.image_size // tokenizer.patch_size) ** 2
        head = 2.0 * tokenizer.readout_width * tokenizer.latent_width * positions
        return TermFlops(student=head, subset_pass=self.encoder_flops)
