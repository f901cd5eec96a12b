"""What a backward pass computes anew because keeping it costs more."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def recomputed(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, of which a backward pass keeps the arguments alone.

    For elementwise work between two matrix products: to compute it twice takes less
    time than to write and to read all its steps, on a CPU and on a GPU.
    """
    # XLA may merge both passes where they are one program: that changes no number,
    # and inside a scan over layers they are two.
    return jax.checkpoint(function, prevent_cse=False)
