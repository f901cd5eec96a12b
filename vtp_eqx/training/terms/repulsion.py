"""Repulsion of a generator's hidden features from a memory bank of former ones.

Zhang et al. 2025 (Repulsor), https://arxiv.org/abs/2512.08648.
"""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import GenerateConfig
from vtp_eqx.losses.repulsion import enqueued, repulsion_loss
from vtp_eqx.models.heads import ProjectionHead
from vtp_eqx.training.terms.term import Microbatch, Term, TermFlops, TermLoss


class RepulsionOutputs(eqx.Module):
    """The loss of each row, and its projected features, which the bank gets."""

    value: Float[Array, " rows"]
    projected: Float[Array, "rows width"]


@dataclasses.dataclass(frozen=True)
class Repulsion(Term):
    """Projected features of a latent move away from those of former batches.

    Its student has a head for it in `heads`. A row looks at the bank alone, not at the
    rest of its batch, so that nothing depends on how a batch is split.
    """

    config: GenerateConfig
    name: ClassVar[str] = "repulsion"

    @property
    def weight(self) -> float:
        return self.config.repulsion.weight

    def make_head(self, key: PRNGKeyArray) -> ProjectionHead:
        """The head from a block's features to the bank's; generators leave it out."""
        width = self.config.dit.width
        return ProjectionHead(width, self.config.repulsion.width, key=key)

    def make_memory(self) -> Float[Array, "bank width"]:
        """A bank without features."""
        config = self.config.repulsion
        return jnp.zeros((config.bank_size, config.width), jnp.float32)

    def forward(self, rows: Microbatch) -> RepulsionOutputs:
        config, depth = self.config.repulsion, self.config.dit.depth
        block = max(round(config.depth_share * depth), 1) - 1
        features = rows.passes.summaries[:, block]
        projected = rows.student.heads[self.name](features)
        value = repulsion_loss(
            projected, rows.memory[self.name], temperature=config.temperature
        )
        return RepulsionOutputs(value, lax.stop_gradient(projected))

    def loss(self, student: Any, outputs: RepulsionOutputs) -> TermLoss:
        return TermLoss(outputs.value, {})

    def remember(
        self, outputs: RepulsionOutputs, memory: Float[Array, "bank width"]
    ) -> Float[Array, "bank width"]:
        return enqueued(memory, outputs.projected)

    def flops(self) -> TermFlops:
        """The head, and the products with the bank, which gets no gradient."""
        width, config = self.config.dit.width, self.config.repulsion
        head = 2.0 * width * (width + config.width)
        return TermFlops(student=head, frozen=4.0 * config.bank_size * config.width)
