"""What a training learns from a batch, in parts that fit into memory."""

from collections.abc import Callable
from typing import Any, NamedTuple


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
    """

    make_views: Callable[..., Any]
    forward: Callable[..., Any]
    loss: Callable[..., Any] = _unchanged
    add_teacher_targets: Callable[..., Any] = _unchanged
