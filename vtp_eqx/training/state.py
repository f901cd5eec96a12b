"""What a run must keep to continue."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
import optax


class TrainState(eqx.Module):
    """Everything a run needs to continue, and nothing it can recompute."""

    step: Int[Array, ""]
    student: Any
    teacher: Any
    weights: Any
    opt_state: Any
    key: PRNGKeyArray

    @classmethod
    def start(
        cls,
        student: Any,
        teacher: Any,
        weights: Any,
        optimizer: optax.GradientTransformation,
        *,
        key: PRNGKeyArray,
    ) -> "TrainState":
        """The state before the first step. `teacher` must not share arrays with
        `student`, because a step donates both."""
        trainable = eqx.filter((student, weights), eqx.is_inexact_array)
        return cls(
            step=jnp.zeros((), jnp.int32),
            student=student,
            teacher=teacher,
            weights=weights,
            opt_state=optimizer.init(trainable),
            key=key,
        )


def moving_average(
    teacher: PyTree, student: PyTree, momentum: float | Float[Array, ""]
) -> PyTree:
    """`momentum * teacher + (1 - momentum) * student`, float array by float array.

    1 keeps the teacher and 0 copies the student, both exactly. `student` must have the
    teacher's structure; other leaves are the teacher's.
    """

    def mix(old, new):
        if not eqx.is_inexact_array(old):
            return old
        blend = momentum * old + (1 - momentum) * new
        return blend.astype(old.dtype)

    return jax.tree.map(mix, teacher, student)


def copied(tree: PyTree) -> PyTree:
    """`tree` with arrays of its own, so that donating one copy spares the other."""
    return jax.tree.map(
        lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, tree
    )
