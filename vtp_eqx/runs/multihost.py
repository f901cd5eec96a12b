"""Agreement between the processes of a run; all processes call each function here.

An error in one process alone leaves the others waiting for it in the next collective.
"""

from collections.abc import Iterator
import contextlib

import jax
from jax.experimental import multihost_utils
import numpy as np

from vtp_eqx.mesh import gather_texts


class OtherProcessError(RuntimeError):
    """Another process of the run has raised an error."""


def is_main_process() -> bool:
    """Whether this is the process that writes what all have in common."""
    return jax.process_index() == 0


def all_max(number: int) -> int:
    """The largest number that any process has."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def all_equal(text: str) -> bool:
    """Whether all processes have the same text."""
    return len({*gather_texts(text)}) == 1


@contextlib.contextmanager
def raise_on_all() -> Iterator[None]:
    """A block that succeeds in every process, or raises in every one.

    The process that failed raises its error, and the others an `OtherProcessError`. The
    block may not contain a collective, which a process that failed would not reach.
    """
    try:
        yield
    except Exception:
        all_max(1)
        raise
    if all_max(0):
        raise OtherProcessError(
            "The processes of a run go on together; got an error in another one: see "
            "what it said."
        )
