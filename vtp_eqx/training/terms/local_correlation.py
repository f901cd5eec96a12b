"""Correlation of latents that are neighbors: a control."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from vtp_eqx.config import PretrainConfig
from vtp_eqx.losses.latents import local_correlation_loss
from vtp_eqx.training.parameter_counts import encoder_flops
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.term import Microbatch, PretrainTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class LocalCorrelation(PretrainTerm):
    """How much less alike than wanted the neighbors among latents are (SSVAE's LCR)."""

    config: PretrainConfig
    name: ClassVar[str] = "local_correlation"
    batch: ClassVar[str] = "reconstruction_batch"
    needs: ClassVar[Needs] = Needs.SUBSET

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        threshold = self.config.controls.correlation_threshold
        return local_correlation_loss(rows.passes.subset.latents, threshold=threshold)

    def flops(self) -> TermFlops:
        tokenizer = self.config.tokenizer
        return TermFlops(subset_pass=encoder_flops(tokenizer, tokenizer.image_size))
