"""The loss of a batch and its exact gradient, a stretch of rows at a time.

Some terms look at the whole batch, such as contrast, whose negatives are all other
pairs; they cannot be averaged over stretches. But they look at little of it, such as
embeddings. So a first pass sees all stretches without a gradient; the gradient of the
loss with respect to what was seen follows on the whole batch; and a second pass takes
it back through one stretch after the other. The price is one forward pass more.

Gao et al. 2021 (GradCache), https://arxiv.org/abs/2101.06983, for every term at once.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vtp_eqx.config import require
from vtp_eqx.mesh import DATA
from vtp_eqx.training.objective import Objective


Metrics = dict[str, Float[Array, ""]]


def loss_and_gradient(
    objective: Objective,
    trainable: PyTree,
    assemble: Callable[[PyTree], tuple[Any, Any]],
    teacher: Any,
    views: PyTree,
    step: Int[Array, ""],
    *,
    accumulate: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Metrics, PyTree]:
    """The global loss, its terms and monitors, and its gradient; inside `shard_map`.

    - `assemble(trainable)` makes the student, as it computes, and the loss weights.
    - `views` are the rows of one device; each of their arrays has a number of rows
      that `accumulate` divides.

    The result does not depend on `accumulate`, but for the order of sums and for
    stochastic depth, which draws its subsets from the rows of one stretch.
    """

    def cut(rows):
        require(
            accumulate >= 1 and len(rows) % accumulate == 0,
            "The rows of a device are cut into equal stretches; got "
            f"{len(rows)} rows for {accumulate} stretches: change `accumulate`.",
        )
        return rows.reshape(accumulate, len(rows) // accumulate, *rows.shape[1:])

    views = objective.teach(teacher, jax.tree.map(cut, views), step)
    stretches = (jnp.arange(accumulate), views)

    def see(trainable, stretch):
        number, views = stretch
        student, _ = assemble(trainable)
        return objective.see(student, teacher, views, step, jr.fold_in(key, number))

    def loss(trainable, seen):
        student, weights = assemble(trainable)
        found = objective.terms(student, seen)
        # Inside of what is differentiated: then the gradient needs no collective.
        terms, monitors = lax.pmean(jax.tree.map(jnp.mean, found), DATA)
        return weights(terms), {**terms, **monitors}

    if accumulate == 1:
        only = jax.tree.map(lambda rows: rows[0], stretches)
        (total, metrics), gradient = jax.value_and_grad(
            lambda trainable: loss(trainable, see(trainable, only)), has_aux=True
        )(trainable)
        return total, metrics, gradient

    seen = lax.map(lambda stretch: see(trainable, stretch), stretches)
    (total, metrics), (direct, by_seen) = jax.value_and_grad(
        lambda trainable, seen: loss(trainable, jax.tree.map(_joined, seen)),
        argnums=(0, 1),
        has_aux=True,
    )(trainable, seen)
    # Varying, so that stretches add up on each device and are summed over devices once.
    local = lax.pcast(trainable, DATA, to="varying")

    def back(gradient, stretch):
        stretch, cotangent = stretch
        _, pull = jax.vjp(lambda trainable: see(trainable, stretch), local)
        return jax.tree.map(jnp.add, gradient, *pull(cotangent)), None

    none = lax.pcast(jax.tree.map(jnp.zeros_like, trainable), DATA, to="varying")
    through, _ = lax.scan(back, none, (stretches, by_seen))
    gradient = jax.tree.map(jnp.add, direct, lax.psum(through, DATA))
    return total, metrics, gradient


def _joined(rows: Array) -> Array:
    return rows.reshape(-1, *rows.shape[2:])
