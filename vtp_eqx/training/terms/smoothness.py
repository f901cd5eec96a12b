"""Smoothness of latents: a control, ours."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from vtp_eqx.config import PretrainConfig
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm, TermFlops


@dataclasses.dataclass(frozen=True)
class Smoothness(SubsetTerm):
    """How much the latents that are decoded differ from their neighbors."""

    config: PretrainConfig
    name: ClassVar[str] = "smoothness"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        # Looks at the whole batch: the config refuses it with microbatches.
        return smoothness_loss(rows.passes.subset.latents, axis_name=DATA)

    def flops(self) -> TermFlops:
        return TermFlops(subset_pass=self.encoder_flops)
