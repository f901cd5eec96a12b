"""One update, as a function of the state and a batch, on any number of devices."""

from collections.abc import Callable
from typing import Any, cast, NamedTuple

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree
import optax

from vtp_eqx.mesh import DATA, REPLICATED, SPLIT
from vtp_eqx.training.state import moving_average, TrainState


class Objective(NamedTuple):
    """What is learned from a batch. Both parts are pure functions.

    - `prepare(batch, key)` sees the global batch and returns what the models look at.
      Its randomness must be keyed by an example's place in the global batch.
    - `terms(student, teacher, views, step, key)` sees the rows of one device and
      returns the loss terms and what else to watch, one value per example; it reduces
      over `mesh.DATA` where a term needs the global batch. `key` differs between
      devices.
    """

    prepare: Callable[..., Any]
    terms: Callable[..., tuple[dict[str, Array], dict[str, Array]]]


def make_step(
    state: TrainState,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    momentum: Callable[[Array], Array],
    followed: Callable[[Any], PyTree],
    constrain: Callable[[Any], Any] = lambda student: student,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]]:
    """The compiled `step(state, batch) -> (state, metrics)`; it donates its state.

    - `state` fixes the static structure; its arrays are not read.
    - `momentum(step)` is the share of itself that the teacher keeps.
    - `followed(student)` is the part of the student that the teacher follows.
    - `constrain(student)` is applied after the update (a clamp, say).

    Metrics are the mean terms and monitors, the weighted `total` and the
    `gradient_norm`, of the parameters before the update. The differentiated function
    returns the *global* loss, so that the gradient needs no collective by hand and is
    the same on any number of devices.
    """
    static = eqx.filter(state, eqx.is_array, inverse=True)

    def local_step(arrays, views):
        state = eqx.combine(arrays, static)
        key = jr.fold_in(jr.fold_in(state.key, state.step), 1)
        key = jr.fold_in(key, lax.axis_index(DATA))

        def loss(trainable, rest):
            student, weights = eqx.combine(trainable, rest)
            found = objective.terms(student, state.teacher, views, state.step, key)
            terms, monitors = lax.pmean(jax.tree.map(jnp.mean, found), DATA)
            return weights(terms), {**terms, **monitors}

        trainable, rest = eqx.partition(
            (state.student, state.weights), eqx.is_inexact_array
        )
        (total, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(
            trainable, rest
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        student, weights = cast(tuple, eqx.combine(trainable, rest))
        student = constrain(student)
        new_state = TrainState(
            step=state.step + 1,
            student=student,
            teacher=moving_average(
                state.teacher, followed(student), momentum(state.step)
            ),
            weights=weights,
            opt_state=opt_state,
            key=state.key,
        )
        norm = optax.tree.norm(gradients)
        metrics = {**metrics, "total": total, "gradient_norm": norm}
        return eqx.filter(new_state, eqx.is_array), metrics

    def on_arrays(arrays, batch):
        key = jr.fold_in(jr.fold_in(arrays.key, arrays.step), 0)
        views = objective.prepare(batch, key)
        return jax.shard_map(
            local_step, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=REPLICATED
        )(arrays, views)

    compiled = jax.jit(on_arrays, donate_argnums=0)

    def step(
        state: TrainState, batch: PyTree
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        arrays, metrics = compiled(eqx.filter(state, eqx.is_array), batch)
        return eqx.combine(arrays, static), metrics

    step.compiled = compiled  # for counting compilations and lowering  # type: ignore
    return step


def require_finite(metrics: dict[str, float], step: int) -> None:
    """Raises `FloatingPointError` naming the terms that are not finite."""
    bad = sorted(name for name, value in metrics.items() if not jnp.isfinite(value))
    if bad:
        found = ", ".join(f"{name} = {metrics[name]}" for name in bad)
        raise FloatingPointError(
            f"Every loss term must be finite; got {found} at step {step}: lower the "
            "learning rate, or look for broken images in that batch."
        )
