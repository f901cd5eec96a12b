"""Where loss terms become one scalar, with fixed or with learned weights.

Both ways are called alike, `weights(terms) -> total`, and hold their numbers as arrays,
so that they are part of the train state and of its checkpoints.
"""

from collections.abc import Callable, Mapping
import math

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import require


Scalar = Float[Array, ""]
TermWeights = Callable[[dict[str, Scalar]], Scalar]  # from terms to their total


class FixedWeights(eqx.Module):
    """Weighs loss terms by constants, which get no gradient."""

    weight: dict[str, Scalar]

    def __init__(self, weights: Mapping[str, float]):
        """Every weight must be finite and 0 or more, else `ValueError`."""
        _require_weights(weights, zero_allowed=True)
        self.weight = {name: _scalar(weights[name]) for name in sorted(weights)}

    def __call__(self, terms: dict[str, Scalar]) -> Scalar:
        """The weighted sum. Terms other than the weighted ones: `ValueError`."""
        _require_same_names(terms, self.weight)
        current = self.current()
        return _total([current[name] * terms[name] for name in current])

    def current(self) -> dict[str, Scalar]:
        """The weight of each term."""
        return lax.stop_gradient(self.weight)


class LearnedWeights(eqx.Module):
    """Learns the balance between loss terms, of which each must be positive.

    Minimizes the sum of `exp(-s_i) L_i + s_i`, which is stationary at `s_i = log L_i`:
    there every weighted term is 1, whatever its units. A term that stays negative has
    no such point, and its weight would grow without end.

    Kendall et al. 2018, https://arxiv.org/abs/1705.07115, section 3.2: twice their
    objective, with `s` the log of their noise variance.
    """

    log_variance: dict[str, Scalar]

    def __init__(self, initial: Mapping[str, float]):
        """Starts where each weight is as given: finite, above 0, else `ValueError`."""
        _require_weights(initial, zero_allowed=False)
        self.log_variance = {
            name: -jnp.log(_scalar(initial[name])) for name in sorted(initial)
        }

    def __call__(self, terms: dict[str, Scalar]) -> Scalar:
        """The objective. Terms other than the weighted ones: `ValueError`."""
        _require_same_names(terms, self.log_variance)
        current = self.current()
        return _total(
            [current[name] * terms[name] + self.log_variance[name] for name in current]
        )

    def current(self) -> dict[str, Scalar]:
        """The weight of each term, `exp(-s_i)`."""
        return {name: jnp.exp(-s) for name, s in self.log_variance.items()}


def adaptive_weight(
    reference_norm: Scalar, own_norm: Scalar, *, eps: float, limit: float
) -> Scalar:
    """The weight at which a loss pulls as hard as the loss of reference does.

    Both norms are of gradients with respect to the same layer's weight; their ratio is
    at most `limit`, and has no gradient. Esser et al. 2021 (VQGAN),
    https://arxiv.org/abs/2012.09841, equation 7, for a discriminator; Yao et al. 2025
    (VA-VAE), https://arxiv.org/abs/2501.01423, section 3.2, for alignment.
    """
    ratio = reference_norm / (own_norm + eps)
    return lax.stop_gradient(jnp.clip(ratio, 0, limit))


def _require_weights(weights: Mapping[str, float], *, zero_allowed: bool) -> None:
    require(len(weights) > 0, "A total needs one weighted term or more; got none.")
    for name, weight in weights.items():
        law = "0 or more" if zero_allowed else "above 0"
        require(
            math.isfinite(weight) and (weight > 0 or (zero_allowed and weight == 0)),
            f"The weight of `{name}` must be finite and {law}; got {weight}: "
            "change it, or leave the term out.",
        )


def _require_same_names(terms: dict[str, Scalar], weights: dict[str, Scalar]) -> None:
    unmatched = sorted(terms.keys() ^ weights.keys())
    require(
        not unmatched,
        f"Every loss term needs exactly one weight; got terms {sorted(terms)} and "
        f"weights {sorted(weights)}: add or leave out {unmatched}.",
    )


def _scalar(value: float) -> Scalar:
    # An explicit type: a weakly typed leaf would compile the step a second time.
    return jnp.asarray(value, dtype=jnp.float32)


def _total(weighted: list[Scalar]) -> Scalar:
    return jnp.sum(jnp.stack(weighted))
