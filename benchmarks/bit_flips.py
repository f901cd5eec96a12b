"""Single bit flips in a step that is computed twice: what broken hardware does."""

import dataclasses
import itertools
import random
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, Shaped
import numpy as np
import optax

from vtp_eqx.runs.checkpoint import as_numbers, as_words, is_key
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import Step


Target = Literal["parameter", "gradient", "output"]
TARGETS: tuple[Target, ...] = ("parameter", "gradient", "output")
_NONE = -1


class FlipState(NamedTuple):
    """Which bit of which leaf of the next gradient is flipped; -1: none is."""

    leaf: Int[Array, ""]
    element: Int[Array, ""]
    bit: Int[Array, ""]
    inner: Any


@dataclasses.dataclass(frozen=True)
class Flip:
    """One bit: of a parameter before a step, of a gradient in it, or of its output.

    Numbers are taken modulo how many leaves, devices, elements and bits there are.
    """

    target: Target
    leaf: int
    device: int
    element: int
    bit: int

    @classmethod
    def draw(cls, target: Target, source: random.Random) -> "Flip":
        """A random one."""
        return cls(target, *(source.randrange(2**30) for _ in range(4)))


def flipping(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` with a gradient of which a bit may be flipped: see `FlipState`."""
    none = lambda: jnp.asarray(_NONE, jnp.int32)

    def init(params: PyTree) -> FlipState:
        return FlipState(none(), none(), none(), optimizer.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None):
        leaves, structure = jax.tree.flatten(updates)
        flipped = [
            jnp.where(place == state.leaf, _flip(leaf, state.element, state.bit), leaf)
            for place, leaf in enumerate(leaves)
        ]
        updates, inner = optimizer.update(
            jax.tree.unflatten(structure, flipped), state.inner, params
        )
        return updates, FlipState(none(), none(), none(), inner)

    return optax.GradientTransformation(init, update)


def faulty_at(step: Step, call: int, flip: Flip) -> Step:
    """`step` with a bit flipped in its call of that number, from 1 on.

    Of a gradient, if its optimizer is `flipping`.
    """
    calls = itertools.count(1)

    def faulty(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        return (_flipped(step, flip) if next(calls) == call else step)(state, batch)

    return faulty


def _flipped(step: Step, flip: Flip) -> Step:
    def flipped(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        if flip.target == "parameter":
            student = _flip_leaf(state.student, flip)
            state = eqx.tree_at(lambda state: state.student, state, student)
        if flip.target != "gradient":
            state, metrics = step(state, batch)
            is_output = flip.target == "output"
            return (_flip_leaf(state, flip) if is_output else state), metrics
        spec = lambda state: state.opt_state[:3]
        none = spec(state)
        trainable = eqx.filter((state.student, state.weights), eqx.is_inexact_array)
        leaf = flip.leaf % len(jax.tree.leaves(trainable))
        placed = [
            jax.device_put(jnp.asarray(value, jnp.int32), old.sharding)
            for value, old in zip((leaf, flip.element, flip.bit), none, strict=True)
        ]
        state, metrics = step(eqx.tree_at(spec, state, tuple(placed)), batch)
        # A step that is skipped leaves its optimizer as it was, with the flip in it.
        return eqx.tree_at(spec, state, tuple(none)), metrics

    return flipped


def flip_bit(
    array: Shaped[Array, "..."], *, device: int, element: int, bit: int
) -> Shaped[Array, "..."]:
    """`array` with a bit flipped in what one device of this process holds of it."""
    shards = list(array.addressable_shards)
    parts = [shard.data for shard in shards]
    place = device % len(parts)
    part = np.array(parts[place], order="C")
    words = part.reshape(-1).view(f"u{part.dtype.itemsize}")
    words[element % words.size] ^= words.dtype.type(1 << bit % (8 * words.itemsize))
    parts[place] = jax.device_put(part, shards[place].device)
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def same_bits(first: Shaped[Array, "..."], second: Shaped[Array, "..."]) -> bool:
    """Whether two arrays have the same bits on each device, compared on the host."""
    content = lambda shard: np.asarray(as_numbers(shard.data)).tobytes()
    return all(
        content(ours) == content(theirs)
        for ours, theirs in zip(
            first.addressable_shards, second.addressable_shards, strict=True
        )
    )


def _flip_leaf(tree: PyTree, flip: Flip) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    can_flip = lambda leaf: eqx.is_array(leaf) and leaf.size > 0 and not is_key(leaf)
    places = [place for place, leaf in enumerate(leaves) if can_flip(leaf)]
    place = places[flip.leaf % len(places)]
    leaves[place] = flip_bit(
        leaves[place], device=flip.device, element=flip.element, bit=flip.bit
    )
    return jax.tree.unflatten(structure, leaves)


def _flip(leaf: Array, element: Array, bit: Array) -> Array:
    words = as_words(leaf).reshape(-1)
    width = 8 * words.dtype.itemsize
    mask = jnp.left_shift(
        jnp.asarray(1, words.dtype), (bit % width).astype(words.dtype)
    )
    place = element % words.size
    words = words.at[place].set(words[place] ^ mask)
    return jax.lax.bitcast_convert_type(words.reshape(leaf.shape), leaf.dtype)
