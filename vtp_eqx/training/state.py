"""The train state: everything a run must keep to continue."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
import optax

from vtp_eqx.config import Sharding
from vtp_eqx.mesh import fsdp_spec, place, REPLICATED


class TrainState(eqx.Module):
    """Everything a run needs to continue, and nothing it can recompute."""

    step: Int[Array, ""]
    student: Any
    teacher: Any
    weights: Any
    opt_state: Any
    key: PRNGKeyArray
    num_skipped: Int[Array, ""]
    typical_norm: Float[Array, ""]  # a running mean of the gradient's; 0 at first
    memory: Any = None  # what loss terms keep of former batches, by their names

    @classmethod
    def start(
        cls,
        student: Any,
        teacher: Any,
        weights: Any,
        optimizer: optax.GradientTransformation,
        *,
        memory: Any = None,
        key: PRNGKeyArray,
    ) -> "TrainState":
        """The state before the first step. `teacher` must not share arrays with
        `student`, because a step donates both."""
        trainable = eqx.filter((student, weights), eqx.is_inexact_array)
        zero = lambda kind: jnp.zeros((), kind)
        return cls(
            step=zero(jnp.int32), student=student, teacher=teacher, weights=weights,
            opt_state=optimizer.init(trainable), key=key, num_skipped=zero(jnp.int32),
            typical_norm=zero(jnp.float32), memory=memory,
        )  # fmt: skip


# The parts that are split over devices between steps, where a config asks for it.
SPLIT_PARTS: dict[Sharding, tuple[str, ...]] = {
    "none": (),
    "zero": ("teacher", "opt_state"),
    "fsdp": ("teacher", "opt_state", "student"),
}


class Placement(NamedTuple):
    """Where the arrays of a state live, and those of a gradient."""

    state: PyTree
    gradient: PyTree


def placement(state: TrainState, mesh: Mesh, sharding: Sharding) -> Placement:
    """Which arrays every device has a copy of, and which it has a share of.

    Nothing is split with "none". With "zero" the optimizer's moments and the teacher
    are, and with "fsdp" the student too; the gradient is split like the moments. What
    is split is brought together on each device for as long as a step computes with it.

    Rajbhandari et al. 2020 (ZeRO), https://arxiv.org/abs/1910.02054, stages 2 and 3.
    """
    split = lambda leaf: NamedSharding(mesh, fsdp_spec(leaf.shape, mesh.devices.size))
    whole = lambda leaf: NamedSharding(mesh, REPLICATED)

    def place_of(path, leaf):
        return (split if path[0].name in SPLIT_PARTS[sharding] else whole)(leaf)

    trainable = eqx.filter((state.student, state.weights), eqx.is_inexact_array)
    return Placement(
        jax.tree_util.tree_map_with_path(place_of, eqx.filter(state, eqx.is_array)),
        jax.tree.map(whole if sharding == "none" else split, trainable),
    )


def shard_state(state: TrainState, mesh: Mesh, sharding: Sharding) -> TrainState:
    """`state` on the devices of `mesh`, split as `sharding` says."""
    arrays, static = eqx.partition(state, eqx.is_array)
    places = placement(state, mesh, sharding).state
    return eqx.combine(place(arrays, places), static)


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


def copy_arrays(tree: PyTree) -> PyTree:
    """`tree` with arrays of its own, so that donating one copy spares the other."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(_copies(arrays), static)


@jax.jit  # array by array, each shape would be compiled for
def _copies(arrays: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, arrays)
