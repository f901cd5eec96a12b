"""Smoothness of latents: a control, ours."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from vtp_eqx.config import PretrainConfig
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.training.parameter_counts import encoder_flops
from vtp_eqx.training.pretrain_views import Needs
from vtp_eqx.training.terms.term import Microbatch, PretrainTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class Smoothness(PretrainTerm):
    """How much the latents that are decoded differ from their neighbors."""

    config: PretrainConfig
    name: ClassVar[str] = "smoothness"
    batch: ClassVar[str] = "reconstruction_batch"
    needs: ClassVar[Needs] = Needs.SUBSET

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        # Looks at the whole batch: the config refuses it with microbatches.
        return smoothness_loss(rows.passes.subset.latents, axis_name=DATA)

    def flops(self) -> TermFlops:
        tokenizer = self.config.tokenizer
        return TermFlops(subset_pass=encoder_flops(tokenizer, tokenizer.image_size))
