"""Smoothness of latents: a control, ours."""

from typing import ClassVar

from jaxtyping import Array, Float

from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.training.terms.term import Microbatch, SubsetTerm


class Smoothness(SubsetTerm):
    """How much the latents that are decoded differ from their neighbors."""

    name: ClassVar[str] = "smoothness"

    def forward(self, rows: Microbatch) -> Float[Array, " rows"]:
        # Looks at the whole batch: the config refuses it with microbatches.
        return smoothness_loss(rows.passes.subset.latents, axis_name=DATA)
