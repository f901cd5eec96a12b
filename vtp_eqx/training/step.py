"""One update, as a function of the state and a batch, on any number of devices."""

from collections.abc import Callable
import dataclasses
from typing import Any, cast

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, PyTree
import optax

from vtp_eqx.config import Precision, Sharding
from vtp_eqx.mesh import DATA, REPLICATED, SPLIT
from vtp_eqx.training.balance import GradientBalance
from vtp_eqx.training.microbatches import loss_and_gradient, Objective
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.state import moving_average, placement, TrainState


# Ours: the typical norm of a gradient is a mean over about so many steps.
NORM_STEPS = 50


Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]


def make_step(
    state: TrainState,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    momentum: Callable[[Array], Array],
    ema_source: Callable[[Any], PyTree],
    constrain: Callable[[Any], Any] = lambda student: student,
    accumulate: int = 1,
    precision: Precision = "float32",
    sharding: Sharding = "none",
    spike_factor: float | None = None,
    balance: GradientBalance | None = None,
) -> Step:
    """The compiled `step(state, batch) -> (state, metrics)`; it donates its state.

    - `state` fixes the static structure; its arrays are not read.
    - `momentum(step)` is the share of itself that the teacher keeps.
    - `ema_source(student)` is the part of the student that the teacher averages.
    - `constrain(student)` is applied after the update (a clamp, say).
    - `accumulate`: into how many microbatches each device splits its rows.
    - `precision`: the type that networks compute in.
    - `sharding`: what is split over devices between steps (`state.placement`).
    - `spike_factor`: a step whose gradient is longer than so many times the typical one
        is skipped; `None`: none is for that.
    - `balance`: a term whose weight changes with each step, if one has such a weight.

    A step whose loss or gradient is not finite is skipped in any case: student,
    teacher, loss weights, optimizer and memory stay as they were, and the next batch
    follows.

    Metrics are the mean terms and monitors, the weighted `total` and the
    `gradient_norm`, of the parameters before the update; `skipped`, 1 where this step
    was; and `num_skipped`, of all steps so far. The differentiated function returns the
    *global* loss, so that the gradient needs no collective by hand and is the same on
    any number of devices.
    """
    static = eqx.filter(state, eqx.is_array, inverse=True)
    places = placement(state, mesh, sharding)

    def local_gradient(arrays, views):
        state = eqx.combine(arrays, static)
        key = jr.fold_in(jr.fold_in(state.key, state.step), 1)
        trainable, rest = _trainable(state)

        cast_student = lambda student: cast_params(student, precision)
        teacher = cast_student(state.teacher)
        gradient = lambda trainable, assemble: loss_and_gradient(
            objective, trainable, assemble, teacher, views, state.step,
            accumulate=accumulate, memory=state.memory,
            key=jr.fold_in(key, lax.axis_index(DATA)),
        )  # fmt: skip
        balanced, norms = None, {}
        if balance is not None:
            balanced, norms = balance.measure(
                gradient, state.student, state.weights, cast_student
            )

        def assemble(trainable):
            student, weights = cast(tuple, eqx.combine(trainable, rest))
            return cast_student(student), balanced or weights

        result = gradient(trainable, assemble)
        outputs = None if state.memory is None else result.outputs
        return result.total, result.metrics | norms, result.gradient, outputs

    def on_arrays(arrays, batch):
        key = jr.fold_in(jr.fold_in(arrays.key, arrays.step), 0)
        views = objective.make_views(batch, key)
        total, metrics, gradient, outputs = jax.shard_map(
            local_gradient, mesh=mesh, in_specs=(REPLICATED, SPLIT),
            out_specs=(REPLICATED, REPLICATED, REPLICATED, SPLIT),
        )(without_optimizer(arrays), views)  # fmt: skip
        # From here on each device works on its share, wherever the state is split.
        gradient = lax.with_sharding_constraint(gradient, places.gradient)
        norm = optax.tree.norm(gradient)

        state = eqx.combine(arrays, static)
        trainable, rest = _trainable(state)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        student, weights = cast(tuple, eqx.combine(trainable, rest))
        student = constrain(student)
        source = ema_source(student)
        teacher = moving_average(state.teacher, source, momentum(state.step))

        memory = None
        if arrays.memory is not None:
            memory = objective.remember(outputs, arrays.memory)

        is_good, typical_norm = check_step(
            total, norm, state.typical_norm, spike_factor
        )
        arrays, counts = advance(
            arrays, is_good, typical_norm, student=student, teacher=teacher,
            weights=weights, opt_state=opt_state, memory=memory,
        )  # fmt: skip
        metrics |= {"total": total, "gradient_norm": norm}
        return arrays, metrics | counts

    return compiled_step(on_arrays, static, places.state, mesh)


def compiled_step(
    on_arrays: Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]],
    static: TrainState,
    places: PyTree,
    mesh: Mesh,
) -> Step:
    """The compiled `step(state, batch)` of a function of the arrays of a state.

    It donates its state. `static` is what of a state is no array, `places` where its
    arrays live; metrics are on all devices.
    """
    everywhere = NamedSharding(mesh, REPLICATED)
    compiled = jax.jit(on_arrays, donate_argnums=0, out_shardings=(places, everywhere))

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
        arrays, metrics = compiled(eqx.filter(state, eqx.is_array), batch)
        return eqx.combine(arrays, static), metrics

    step.compiled = compiled  # for counting compilations and lowering  # type: ignore
    return step


def _trainable(state: TrainState) -> tuple[PyTree, PyTree]:
    return eqx.partition((state.student, state.weights), eqx.is_inexact_array)


def without_optimizer(arrays: TrainState) -> TrainState:
    """What a gradient depends on: the rest need not be brought together for it."""
    nothing = jax.tree.map(lambda _: None, arrays.opt_state)
    return eqx.tree_at(lambda state: state.opt_state, arrays, nothing)


def advance(
    arrays: TrainState,
    is_good: Bool[Array, ""],
    typical_norm: Float[Array, ""],
    **new: PyTree,
) -> tuple[TrainState, dict[str, Array]]:
    """The arrays of a state after a step, and its `skipped` and `num_skipped`.

    `new` are the parts that a good step replaces; a bad one leaves them as they were.
    """
    parts = jax.tree.map(
        lambda new, old: jnp.where(is_good, new, old),
        eqx.filter([*new.values()], eqx.is_array),
        [getattr(arrays, name) for name in new],
    )
    skipped = 1 - is_good.astype(jnp.int32)
    num_skipped = arrays.num_skipped + skipped
    arrays = dataclasses.replace(
        arrays, step=arrays.step + 1, num_skipped=num_skipped,
        typical_norm=typical_norm, **dict(zip(new, parts, strict=True)),
    )  # fmt: skip
    return arrays, {"skipped": skipped, "num_skipped": num_skipped}


def check_step(
    total: Float[Array, ""],
    norm: Float[Array, ""],
    typical: Float[Array, ""],
    spike_factor: float | None,
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether a step is good, and the typical norm of gradients after it.

    A spike moves that norm by as much as the longest good gradient would, so that a
    lasting rise is followed. What is not finite does not move it.
    """
    is_finite = jnp.isfinite(total) & jnp.isfinite(norm)
    is_first = typical == 0
    factor = jnp.inf if spike_factor is None else spike_factor
    bound = jnp.where(is_first, jnp.inf, factor * typical)
    counted = jnp.minimum(norm, bound)
    moved = jnp.where(is_first, counted, typical + (counted - typical) / NORM_STEPS)
    return is_finite & (norm <= bound), jnp.where(is_finite, moved, typical)
