"""What the processes of a run agree on; every function here is called by all of them.

An error in one process alone leaves the others waiting for it in the next collective.
"""

from collections.abc import Iterator
import contextlib
import hashlib

import jax
from jax.experimental import multihost_utils
import numpy as np


class ElsewhereError(RuntimeError):
    """Another process of the run has raised an error."""


def leads() -> bool:
    """Whether this is the process that writes what all have in common."""
    return jax.process_index() == 0


def worst(number: int) -> int:
    """The largest number that any process has."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def same_everywhere(text: str) -> bool:
    """Whether all processes have the same text."""
    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    return bool((digests == digests[0]).all())


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """A block that ends well in every process, or raises in every one.

    What went wrong is raised where it did, and an `ElsewhereError` in the others. The
    block itself may not hold a collective: one that failed would not come to it.
    """
    try:
        yield
    except Exception:
        worst(1)
        raise
    if worst(0):
        raise ElsewhereError(
            "The processes of a run go on together; got an error in another one: see "
            "what it said."
        )
