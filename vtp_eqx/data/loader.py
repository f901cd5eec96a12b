"""Batches whose order is a function of (seed, step).

There is no iterator state to save: a run that stopped before step `s` continues with
`start_step=s` and sees what it would have seen, on any number of processes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
import sys
from typing import Any, Protocol, runtime_checkable, TypeVar

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require


Batch = dict[str, np.ndarray]
Item = TypeVar("Item")


@runtime_checkable
class Source(Protocol):
    """Random access to examples: a length, and a dict of values at each position."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Mapping[str, Any]: ...


def rows_at(
    step: int,
    num_examples: int,
    batch_size: int,
    *,
    seed: int,
    group: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> Int[np.ndarray, " local"]:
    """The positions of the examples that step `step` reads.

    Every epoch visits the groups in a new random order and drops what does not fill a
    batch. Shard `(i, n)` reads the `i`-th of `n` equal contiguous parts of the batch,
    so all shards together read the batch of one.

    **Arguments:**

    - `batch_size`: examples in the batch of all shards together.
    - `group`: this many consecutive examples stay together and in order.
    """
    _check(num_examples, batch_size, group, shard)
    groups_per_batch = batch_size // group
    num_groups = num_examples // group
    epoch, place = divmod(step, num_groups // groups_per_batch)
    order = _epoch_order(num_groups, seed, epoch)
    chosen = order[place * groups_per_batch : (place + 1) * groups_per_batch]
    rows = (chosen[:, None] * group + np.arange(group)).reshape(-1)
    index, count = shard
    local = batch_size // count
    return rows[index * local : (index + 1) * local]


def batches(
    source: Mapping[str, np.ndarray] | Source,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    group: int = 1,
    shard: tuple[int, int] = (0, 1),
    num_threads: int = 8,
) -> Iterator[Batch]:
    """Batches from step `start_step` on, without end; see `rows_at` for their order.

    A mapping of arrays (equally long) is indexed at once. Any other source is read
    example by example in `num_threads` threads, a few batches ahead.
    """
    arrays = isinstance(source, Mapping)
    num_examples = _length(source) if arrays else len(source)
    _check(num_examples, batch_size, group, shard)

    def read(step: int) -> Batch:
        rows = rows_at(
            step, num_examples, batch_size, seed=seed, group=group, shard=shard
        )
        if isinstance(source, Mapping):
            return {name: values[rows] for name, values in source.items()}
        return stack_examples([source[int(row)] for row in rows])

    if arrays:
        return map(read, range(start_step, sys.maxsize))

    require(
        num_threads > 0,
        f"`num_threads` ({num_threads}) must be positive: use 1 or more threads.",
    )
    return steps_read_ahead(read, start_step, num_threads)


def steps_read_ahead(
    read: Callable[[int], Item], start_step: int, num_threads: int
) -> Iterator[Item]:
    """`read(step)` of all steps from `start_step` on, in order, by threads."""
    pool = ThreadPoolExecutor(num_threads)
    submit = lambda step: pool.submit(read, step)
    steps = itertools.count(start_step)
    # Threads work on different batches, so that each needs several in flight.
    ahead = deque(map(submit, itertools.islice(steps, 2 * num_threads)))
    try:
        while True:
            batch = ahead.popleft().result()
            ahead.append(submit(next(steps)))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stack_examples(examples: list[Mapping[str, Any]]) -> Batch:
    """One array for each field, with a leading axis over `examples`."""
    return {
        name: np.stack([np.asarray(example[name]) for example in examples])
        for name in examples[0]
    }


@functools.lru_cache(maxsize=2)
def _epoch_order(num_groups: int, seed: int, epoch: int) -> Int[np.ndarray, " groups"]:
    order = np.random.default_rng([seed, epoch]).permutation(num_groups)
    order.flags.writeable = False  # the cache hands the same array out again
    return order


def _length(arrays: Mapping[str, np.ndarray]) -> int:
    lengths = {name: len(values) for name, values in arrays.items()}
    require(
        len(set(lengths.values())) == 1,
        f"All fields must be equally long; got {lengths}: cut or drop the odd one.",
    )
    return next(iter(lengths.values()))


def _check(
    num_examples: int, batch_size: int, group: int, shard: tuple[int, int]
) -> None:
    index, count = shard
    require(
        0 <= index < count and batch_size % count == 0,
        "The shards must split the batch evenly; got shard "
        f"{index} of {count} and `batch_size` {batch_size}: change either.",
    )
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
