"""Flow matching: the velocity from noise to latents, along straight paths."""

import dataclasses
import functools
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import GenerateConfig
from vtp_eqx.flow import flow_loss, FlowLoss
from vtp_eqx.models.dit import Conditions, DiT
from vtp_eqx.training.terms.term import Microbatch, Term, TermLoss


class FlowPoints(eqx.Module):
    """Points on the paths from noise to latents, and the velocities there."""

    point: Float[Array, "batch height width channels"]
    velocity: Float[Array, "batch height width channels"]
    t: Float[Array, " batch"]
    condition: Conditions


class GeneratorStudent(eqx.Module):
    """A transformer, and heads that other loss terms train beside it, by their names.

    Where there are none, the student is the transformer by itself.
    """

    dit: DiT
    heads: dict[str, Any]


class FlowPass:
    """The student's pass over `FlowPoints`, made once, when a term asks for it."""

    def __init__(self, student: DiT | GeneratorStudent, views: FlowPoints):
        self._student, self._views = student, views

    @property
    def velocity(self) -> Float[Array, "batch height width channels"]:
        """The predicted velocities."""
        return self._outputs[0]

    @property
    def summaries(self) -> Float[Array, "batch depth features"]:
        """The mean token of a latent after each block, where there are heads."""
        assert self._outputs[1] is not None
        return self._outputs[1]

    @functools.cached_property
    def _outputs(self) -> tuple[Array, Array | None]:
        views, student = self._views, self._student
        points = (views.point, views.t, views.condition)
        if isinstance(student, GeneratorStudent):
            return student.dit.summarized_batch(*points)
        return student.batch(*points), None


@dataclasses.dataclass(frozen=True)
class FlowMatching(Term):
    """Squared error and cosine distance of velocities (LightningDiT).

    Its passes are a `FlowPass` and its views `FlowPoints`.
    """

    config: GenerateConfig
    name: ClassVar[str] = "flow"

    def forward(self, rows: Microbatch) -> FlowLoss:
        return flow_loss(
            rows.passes.velocity.astype(jnp.float32),
            rows.views.velocity,
            cosine_weight=self.config.cosine_weight,
        )

    def loss(self, student: Any, outputs: FlowLoss) -> TermLoss:
        monitors = {"square": outputs.square, "cosine": outputs.cosine}
        return TermLoss(outputs.total, monitors)
