"""Flow matching: the velocity from noise to latents, along straight paths."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import GenerateConfig
from vtp_eqx.flow import flow_loss, FlowLoss
from vtp_eqx.models.dit import Conditions, DiT
from vtp_eqx.training.flops import generator_flops
from vtp_eqx.training.terms.term import Microbatch, Term, TermFlops, TermLoss


class FlowPoints(eqx.Module):
    """Points on the paths from noise to latents, and the velocities there."""

    point: Float[Array, "batch height width channels"]
    velocity: Float[Array, "batch height width channels"]
    t: Float[Array, " batch"]
    condition: Conditions


@dataclasses.dataclass(frozen=True)
class FlowMatching(Term):
    """Squared error and cosine distance of velocities (LightningDiT).

    Its student is a `DiT` and its views are `FlowPoints`.
    """

    config: GenerateConfig
    name: ClassVar[str] = "flow"

    def forward(self, rows: Microbatch) -> FlowLoss:
        views = rows.views
        predicted = rows.student.batch(views.point, views.t, views.condition)
        return flow_loss(
            predicted.astype(jnp.float32),
            views.velocity,
            cosine_weight=self.config.cosine_weight,
        )

    def loss(self, student: DiT, outputs: FlowLoss) -> TermLoss:
        monitors = {"square": outputs.square, "cosine": outputs.cosine}
        return TermLoss(outputs.total, monitors)

    def flops(self) -> TermFlops:
        return TermFlops(student=generator_flops(self.config.dit))
