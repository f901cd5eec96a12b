"""Batches whose order is a function of (seed, step).

There is no iterator state to save: a run that stopped before step `s` continues with
`start_step=s` and sees what it would have seen.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
from typing import Any, Protocol, runtime_checkable, TypeVar

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require


Batch = dict[str, np.ndarray]
Item = TypeVar("Item")
Value = TypeVar("Value")


@runtime_checkable
class Source(Protocol):
    """Random access to examples: a length, and a dict of values at each position."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Mapping[str, Any]: ...


def rows_at(
    step: int, num_examples: int, batch_size: int, *, seed: int, group: int = 1
) -> Int[np.ndarray, " batch"]:
    """The positions of the examples that step `step` reads.

    Every epoch visits the groups in a new random order and drops what does not fill a
    batch. `group`: this many consecutive examples stay together and in order.
    """
    _check(num_examples, batch_size, group)
    per_batch, num_groups = batch_size // group, num_examples // group
    epoch, batch = divmod(step, num_groups // per_batch)
    order = _epoch_order(num_groups, seed, epoch)
    chosen = order[batch * per_batch : (batch + 1) * per_batch]
    return (chosen[:, None] * group + np.arange(group)).reshape(-1)


def batches(
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    group: int = 1,
) -> Iterator[Batch]:
    """Batches of equally long arrays from step `start_step` on, without end.

    See `rows_at` for their order.
    """
    num_examples = common_length(arrays)
    _check(num_examples, batch_size, group)

    def read(step: int) -> Batch:
        rows = rows_at(step, num_examples, batch_size, seed=seed, group=group)
        return {name: values[rows] for name, values in arrays.items()}

    return map(read, itertools.count(start_step))


def common_length(arrays: Mapping[str, np.ndarray]) -> int:
    """The length that all `arrays` have; a `ValueError` where they differ."""
    lengths = {name: len(values) for name, values in arrays.items()}
    require(
        len(set(lengths.values())) == 1,
        f"All fields must be equally long; got {lengths}: cut or drop the odd one.",
    )
    return next(iter(lengths.values()))


def read_ahead(
    read: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    num_threads: int,
    num_ahead: int,
) -> Iterator[Value]:
    """`map(read, items)` by threads, with at most `num_ahead` values before use."""
    require(
        num_threads > 0,
        f"`num_threads` ({num_threads}) must be positive: use 1 or more threads.",
    )
    pool = ThreadPoolExecutor(num_threads)
    pending = deque()
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > num_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=2)
def _epoch_order(num_groups: int, seed: int, epoch: int) -> Int[np.ndarray, " groups"]:
    order = np.random.default_rng([seed, epoch]).permutation(num_groups)
    order.flags.writeable = False  # the cache hands the same array out again
    return order


def _check(num_examples: int, batch_size: int, group: int) -> None:
    require(
        batch_size % group == 0 and num_examples % group == 0,
        "Batch and data must be made of whole groups; got "
        f"`batch_size` {batch_size}, {num_examples} examples and groups of {group}: "
        "change the first or the last.",
    )
    require(
        0 < batch_size <= num_examples,
        f"A batch needs that many examples; got `batch_size` {batch_size} of "
        f"{num_examples} examples: use more data or smaller batches.",
    )
