"""A loss term that pulls as hard at one layer as another term does (VQGAN, VA-VAE)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, PyTree
import optax

from vtp_eqx.losses.weighting import (
    adaptive_weight,
    FixedWeights,
    LearnedWeights,
    TermWeights,
)
from vtp_eqx.training.microbatches import BatchGradient


Scalar = Float[Array, ""]
# `loss_and_gradient` of a batch, but for what it differentiates, and how the student
# and the total of its terms are made of that.
Gradient = Callable[[PyTree, Callable[[Any], tuple[Any, TermWeights]]], BatchGradient]


class GradientBalance(NamedTuple):
    """The weight of `term` follows the norms of two gradients, anew in each step.

    Its fixed weight is multiplied by the norm of the weighted gradient of `reference`
    over that of its own gradient, both at `layer(student)`: see
    `losses.weighting.adaptive_weight`.
    """

    term: str
    reference: str
    layer: Callable[[Any], tuple[Any, ...]]
    eps: float
    limit: float

    def measure(
        self,
        gradient: Gradient,
        student: Any,
        weights: FixedWeights | LearnedWeights,
        cast: Callable[[Any], Any],
    ) -> tuple[TermWeights, dict[str, Scalar]]:
        """The weights of this step, and what it logs.

        `gradient` is that of the global loss of the step's batch, and `cast` makes a
        student as it computes. It logs the `adaptive_weight` of the term, its fixed one
        included, and both norms.
        """

        def norm_of(name: str) -> Scalar:
            def assemble(layer: tuple[Array, ...]) -> tuple[Any, TermWeights]:
                placed = eqx.tree_at(self.layer, student, layer)
                return cast(placed), lambda terms: terms[name]

            return optax.tree.norm(gradient(self.layer(student), assemble).gradient)

        current = weights.current()
        reference_norm = current[self.reference] * norm_of(self.reference)
        own_norm = norm_of(self.term)
        ratio = adaptive_weight(
            reference_norm, own_norm, eps=self.eps, limit=self.limit
        )
        monitors = {
            "adaptive_weight": ratio * current[self.term],
            f"{self.reference}_norm": reference_norm,
            f"{self.term}_norm": own_norm,
        }
        balanced = lambda terms: weights({**terms, self.term: ratio * terms[self.term]})
        return balanced, monitors
