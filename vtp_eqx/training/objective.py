"""What a training learns from a batch, in parts that fit into memory."""

from collections.abc import Callable
from typing import Any, NamedTuple


def _unchanged(_: Any, given: Any, *rest: Any) -> Any:
    return given


class Objective(NamedTuple):
    """What is learned from a batch. All parts are pure functions.

    A device goes through its rows of the batch in equal stretches, so that the
    activations of one stretch exist at a time. What looks at the whole batch is kept
    apart from what is computed row by row:

    - `prepare(batch, key)` sees the global batch and returns the views of it, whose
      arrays all have rows in front. Its randomness must be keyed by an example's place
      in the global batch.
    - `see(student, teacher, views, step, key)` is computed stretch by stretch; it may
      not depend on other rows. It returns arrays of floats with rows in front: all that
      `terms` needs, as small as can be. `key` differs between devices and stretches.
    - `terms(student, seen)` looks at what was seen of all rows of a device and returns
      the loss terms and what else to watch, each averaged over all its elements. It
      reduces over `mesh.DATA` where a term needs the global batch.
    - `teach(teacher, views, step)` returns `views` with what the teacher says of them.
      Unlike the others it sees a leading axis of stretches, because what one says of a
      row may depend on the whole batch. Nothing in it gets a gradient.
    """

    prepare: Callable[..., Any]
    see: Callable[..., Any]
    terms: Callable[..., Any] = _unchanged
    teach: Callable[..., Any] = _unchanged
