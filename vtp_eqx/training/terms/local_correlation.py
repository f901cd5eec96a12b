"""Correlation of latents that are neighbors: a control."""

from typing import ClassVar

from jaxtyping import Array, Float

from vtp_eqx.losses.latents import local_correlation_loss
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm


class LocalCorrelation(SubsetTerm):
    """By how much neighboring latents correlate less than a threshold (SSVAE's LCR)."""

    name: ClassVar[str] = "local_correlation"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        threshold = self.config.controls.correlation_threshold
        return local_correlation_loss(rows.passes.subset.latents, threshold=threshold)
