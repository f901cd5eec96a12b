"""The loss of a batch and its exact gradient, a microbatch of rows at a time.

Some terms need the whole batch, such as contrast, whose negatives are all other pairs;
they cannot be averaged over microbatches. But they need little of it, such as
embeddings. So a first pass runs all microbatches without a gradient; the gradient of
the loss with respect to their outputs follows on the whole batch; and a second pass
takes it back through one microbatch after the other. The price is one more forward
pass.

Gao et al. 2021 (GradCache), https://arxiv.org/abs/2101.06983, for every term at once.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from vtp_eqx.config import require
from vtp_eqx.mesh import DATA


Metrics = dict[str, Float[Array, ""]]


def _unchanged(_: Any, given: Any, *rest: Any) -> Any:
    return given


class Objective(NamedTuple):
    """What is learned from a batch. All parts are pure functions.

    A device splits its rows of the batch into equal microbatches, so that the
    activations of one microbatch exist at a time. What needs the whole batch is kept
    apart from what is computed row by row:

    - `make_views(batch, key)` takes the global batch and returns its views, whose
      arrays all have rows in front. Its randomness must be keyed by an example's
      position in the global batch.
    - `forward(student, teacher, views, step, key)` is computed microbatch by
      microbatch; it may not depend on other rows. It returns arrays of floats with rows
      in front: all that `loss` needs, as small as possible. `key` differs between
      devices and microbatches.
    - `loss(student, outputs)` takes the outputs of all rows of a device and returns the
      loss terms and the monitors, each averaged over all its elements. It reduces over
      `mesh.DATA` where a term needs the global batch.
    - `add_teacher_targets(teacher, views, step)` returns `views` with the teacher's
      targets. Unlike the others it gets a leading axis of microbatches, because a
      target may depend on the whole batch. Nothing in it gets a gradient.
    - `remember(outputs, memory)` is called where the state has a `memory`, after the
      gradient, with the outputs of the global batch; it returns the next step's. Then
      `forward` gets `memory=` too.
    """

    make_views: Callable[..., Any]
    forward: Callable[..., Any]
    loss: Callable[..., Any] = _unchanged
    add_teacher_targets: Callable[..., Any] = _unchanged
    remember: Callable[..., Any] = _unchanged


class BatchGradient(NamedTuple):
    """The global loss of a batch, its gradient, and what `forward` returned for it."""

    total: Float[Array, ""]
    metrics: Metrics
    gradient: PyTree
    outputs: PyTree  # of the rows of one device


def loss_and_gradient(
    objective: Objective,
    trainable: PyTree,
    assemble: Callable[[PyTree], tuple[Any, Any]],
    teacher: Any,
    views: PyTree,
    step: Int[Array, ""],
    *,
    accumulate: int,
    memory: Any = None,
    key: PRNGKeyArray,
) -> BatchGradient:
    """The global loss, its terms and monitors, and its gradient; inside `shard_map`.

    - `assemble(trainable)` makes the student, as it computes, and the loss weights.
    - `views` are the rows of one device; each of their arrays has a number of rows
      that `accumulate` divides.
    - `memory`: what terms keep of former batches, the same on all devices.

    The result does not depend on `accumulate`, but for the order of sums and for
    stochastic depth, which draws its subsets from the rows of one microbatch.
    """

    def cut(rows):
        require(
            accumulate >= 1 and len(rows) % accumulate == 0,
            "The rows of a device are cut into equal microbatches; got "
            f"{len(rows)} rows for {accumulate} microbatches: change `accumulate`.",
        )
        return rows.reshape(accumulate, len(rows) // accumulate, *rows.shape[1:])

    views = objective.add_teacher_targets(teacher, jax.tree.map(cut, views), step)
    microbatches = (jnp.arange(accumulate), views)
    run = objective.forward
    if memory is not None:
        run = functools.partial(run, memory=memory)

    def forward(trainable, microbatch):
        number, views = microbatch
        student, _ = assemble(trainable)
        return run(student, teacher, views, step, jr.fold_in(key, number))

    def loss(trainable, outputs):
        student, weights = assemble(trainable)
        terms_and_monitors = objective.loss(student, outputs)
        # Inside of what is differentiated: then the gradient needs no collective.
        terms, monitors = lax.pmean(jax.tree.map(jnp.mean, terms_and_monitors), DATA)
        return weights(terms), {**terms, **monitors}

    if accumulate == 1:
        only = jax.tree.map(lambda rows: rows[0], microbatches)

        def whole(trainable):
            outputs = forward(trainable, only)
            total, metrics = loss(trainable, outputs)
            return total, (metrics, outputs)

        (total, (metrics, outputs)), gradient = jax.value_and_grad(whole, has_aux=True)(
            trainable
        )
        return BatchGradient(total, metrics, gradient, outputs)

    outputs = lax.map(lambda microbatch: forward(trainable, microbatch), microbatches)
    (total, metrics), (direct, by_outputs) = jax.value_and_grad(
        lambda trainable, outputs: loss(trainable, jax.tree.map(_joined, outputs)),
        argnums=(0, 1),
        has_aux=True,
    )(trainable, outputs)
    # Varying, so that microbatches add up on each device, and devices only once.
    local = lax.pcast(trainable, DATA, to="varying")

    def back(gradient, microbatch):
        microbatch, cotangent = microbatch
        _, pull = jax.vjp(lambda trainable: forward(trainable, microbatch), local)
        return jax.tree.map(jnp.add, gradient, *pull(cotangent)), None

    none = lax.pcast(jax.tree.map(jnp.zeros_like, trainable), DATA, to="varying")
    indirect, _ = lax.scan(back, none, (microbatches, by_outputs))
    gradient = jax.tree.map(jnp.add, direct, lax.psum(indirect, DATA))
    return BatchGradient(total, metrics, gradient, jax.tree.map(_joined, outputs))


def _joined(rows: Array) -> Array:
    return rows.reshape(-1, *rows.shape[2:])
