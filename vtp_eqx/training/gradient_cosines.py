"""Do objectives agree? The cosines between their gradients on what they share."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vtp_eqx.mesh import DATA, REPLICATED, SPLIT
from vtp_eqx.training.microbatches import loss_and_gradient, Objective


Cosines = Float[Array, "terms terms"]


def make_gradient_cosines(
    objective: Objective,
    names: Sequence[str],
    shared: Callable[[Any], PyTree],
    mesh: Mesh,
    *,
    accumulate: int = 1,
) -> Callable[[Any, Any, Any, Int[Array, ""], PRNGKeyArray], Cosines]:
    """The compiled `(student, teacher, batch, step, key) -> cosines` of each two terms.

    - `names`: all loss terms of `objective`, in the order of rows and columns.
    - `shared(student)`: the part of the student on which gradients are compared.
    - `accumulate`: into how many microbatches each device splits its rows.

    Gradients are those of training, of each term by itself over the whole global batch.
    Yu et al. 2020 (PCGrad), https://arxiv.org/abs/2001.06782, section 2.1: below 0, a
    step for one term undoes some of the other.
    """

    @eqx.filter_jit
    def compare_gradients(
        student: Any, teacher: Any, batch: Any, step: Int[Array, ""], key: PRNGKeyArray
    ) -> Cosines:
        views_key, key = jr.split(key)
        views = objective.make_views(batch, views_key)
        arrays, static = eqx.partition((student, teacher), eqx.is_array)

        def local_gradients(arrays, views, step, key):
            student, teacher = eqx.combine(arrays, static)
            trained, rest = eqx.partition(shared(student), eqx.is_inexact_array)
            key = jr.fold_in(key, lax.axis_index(DATA))

            def gradient(weights):
                total = lambda terms: weights @ jnp.stack([terms[n] for n in names])

                def assemble(trained):
                    part = eqx.combine(trained, rest)
                    return eqx.tree_at(shared, student, part), total

                return loss_and_gradient(
                    objective, trained, assemble, teacher, views, step,
                    accumulate=accumulate, key=key,
                ).gradient  # fmt: skip

            # One after the other: one is compiled, and in memory, at a time.
            return lax.map(gradient, jnp.eye(len(names)))

        return pairwise_cosines(jax.shard_map(
            local_gradients, mesh=mesh,
            in_specs=(REPLICATED, SPLIT, REPLICATED, REPLICATED), out_specs=REPLICATED,
        )(arrays, views, step, key))  # fmt: skip

    return compare_gradients


def pairwise_cosines(gradients: PyTree[Float[Array, "terms ..."]]) -> Cosines:
    """The cosine between each two gradients, which are stacked in front of each leaf.

    Of an objective with itself it is 1; where a gradient is 0, it is 0.
    """
    rows = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)]
    # First to length 1: squares of small gradients have no place in float32.
    largest = jnp.stack([jnp.max(jnp.abs(row), axis=1) for row in rows]).max(axis=0)
    scale = jnp.where(largest > 0, largest, 1)[:, None]
    units = [row / scale for row in rows]
    products = sum(
        jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST) for unit in units
    )
    lengths = jnp.sqrt(jnp.diagonal(jnp.asarray(products)))
    lengths = jnp.where(lengths > 0, lengths, 1)
    return products / lengths[:, None] / lengths
