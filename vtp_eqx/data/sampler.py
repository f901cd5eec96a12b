"""Which rows each step reads, shuffled in two levels, as a function of (seed, step).

A permutation of a billion rows would fill the memory, and jump over a network file
system at every row. Instead each epoch puts the shards (tars) in a new random order and
shuffles the rows of a few shards at a time, the *window*. A step therefore reads from
few files, and over the time of a window all of each; memory grows with the number of
shards and the rows of a window.

The places of the batch are divided into *lanes*, each with its own part of the data. A
process that takes whole lanes reads files that no other process reads. Lanes belong to
the order and processes do not: the same lanes give the same batches to any number of
processes.

There is no iterator state: a run that stopped before step `s` continues with step `s`.
"""

from collections.abc import Sequence
import functools
import threading
from typing import Any

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require


PERIOD = 2**16  # turns over which the shares of a mixture are exact


class ShardedSampler:
    """The rows of each step: `order(step)` of the whole batch, `order(step, (i, n))` of
    the `i`-th of `n` equal contiguous parts of it.

    Epochs follow one another without a gap: a batch may hold the end of one and the
    start of the next. Each shows every row once, but for less than `lanes` groups,
    other ones in each epoch.

    With several sources, which of them is read in turn is a fixed sequence of low
    discrepancy (van der Corput's; not independent draws). In each lane, shares are
    exact, to 1/65,536, over every 65,536 turns, and off by a few turns over any other
    stretch. Each source runs through epochs of its own; its rows are numbered behind
    those of the sources before it, as those of a `mixture.Mixture` are.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int] | Int[np.ndarray, "..."]],
        batch_size: int,
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        window: int = 16,
        lanes: int = 1,
        group: int = 1,
    ):
        """`sizes` are the rows of each shard, for each source.

        **Arguments:**

        - `batch_size`: rows of the batch of all processes together.
        - `weights`: shares of the sources in the batches; by default their rows.
        - `window`: shards whose rows are shuffled together.
        - `group`: this many consecutive rows stay together and in order.
        """
        shards = [np.asarray(one, np.int64) for one in sizes]
        totals = np.array([one.sum() for one in shards], np.int64)
        shares: list[float] = totals.tolist() if weights is None else list(weights)
        require(
            group > 0
            and lanes > 0
            and batch_size > 0
            and batch_size % (lanes * group) == 0,
            "A batch is made of equal lanes, and those of whole groups; got "
            f"`batch_size` {batch_size}, {lanes} lanes and groups of {group}: "
            "change one.",
        )
        require(
            window > 0, f"A window has at least one shard; got {window}: enlarge it."
        )
        require(
            all((one % group == 0).all() for one in shards),
            f"Shards are made of whole groups; got groups of {group} and shards with a "
            "remainder: take groups of 1.",
        )
        require(
            len(totals) > 0 and bool((totals >= lanes * group).all()),
            "Every lane has rows of every source; got sources of "
            f"{totals.tolist()} rows, {lanes} lanes and groups of {group}: use fewer "
            "lanes.",
        )
        require(
            len(shares) == len(totals) and all(0 < one < np.inf for one in shares),
            f"Every source has a positive weight; got {shares} for {len(totals)} "
            "sources: leave out what is not to be read.",
        )
        self.batch_size, self.seed, self.group = batch_size, seed, group
        self.window, self.lanes = window, lanes
        self._sizes = [one // group for one in shards]  # in groups, as all below
        self._lengths = totals // group // lanes  # of an epoch in a lane
        self._starts = (np.cumsum(totals) - totals) // group
        self._turns_of, self._counts, self._ranks = _source_pattern(tuple(shares))
        self._arguments = (sizes, batch_size), {
            "seed": seed, "weights": weights, "window": window, "lanes": lanes,
            "group": group,
        }  # fmt: skip
        # Each lane of each source is in one window, or crosses from one into the next.
        in_use = 2 * lanes * len(shards)
        self._layout = functools.lru_cache(2 * len(shards) + 2)(self._new_layout)
        self._shuffle = functools.lru_cache(in_use + 2)(self._new_shuffle)
        # Threads that miss at once would each make the same.
        self._making = threading.Lock()

    def __call__(
        self, step: int, shard: tuple[int, int] = (0, 1)
    ) -> Int[np.ndarray, " local"]:
        return self.rows(step, self.places(shard))

    def places(self, shard: tuple[int, int] = (0, 1)) -> Int[np.ndarray, " local"]:
        """The places of the batch that are the `i`-th of `n` equal parts of it."""
        index, count = shard
        require(
            0 <= index < count and self.batch_size % (count * self.group) == 0,
            "The shards must split the batch evenly into whole groups; got shard "
            f"{index} of {count} and `batch_size` {self.batch_size}: change either.",
        )
        local = self.batch_size // count
        return np.arange(index * local, (index + 1) * local)

    def rows(self, step: int, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The rows at some places of the batch of `step`."""
        place, member = np.divmod(places, self.group)
        lane, place = np.divmod(place, self._per_lane)
        period, place = np.divmod(step * self._per_lane + place, len(self._turns_of))
        source = self._turns_of[place]
        turn = period * self._counts[source] + self._ranks[place]
        epoch, turn = np.divmod(turn, self._lengths[source])
        line = lane * self._lengths[source] + turn
        found = np.empty_like(line)
        for one, now in set(zip(source.tolist(), epoch.tolist(), strict=True)):
            here = (source == one) & (epoch == now)
            found[here] = self._starts[one] + self._read(one, now, line[here])
        return found * self.group + member

    @property
    def _per_lane(self) -> int:
        return self.batch_size // self.group // self.lanes

    def _read(self, source: int, epoch: int, line: np.ndarray) -> np.ndarray:
        """The groups at positions of the line on which an epoch lays the shards."""
        with self._making:
            firsts, starts, edges = self._layout(source, epoch)
        window = np.searchsorted(edges, line, side="right") - 1
        shuffled = np.empty_like(line)
        for one in np.unique(window).tolist():
            here, edge = window == one, edges[one]
            with self._making:
                shuffle = self._shuffle(source, epoch, one)
            shuffled[here] = edge + shuffle[line[here] - edge]
        shard = np.searchsorted(starts, shuffled, side="right") - 1
        return firsts[shard] + shuffled - starts[shard]

    def _new_layout(
        self, source: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First group of each shard and its start, in the order on the line.

        Last, where the windows begin and end: after so many shards, and between lanes.
        """
        sizes = self._sizes[source]
        order = self._generator(source, epoch).permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        firsts = (np.cumsum(sizes) - sizes)[order]
        lanes = np.arange(self.lanes) * self._lengths[source]
        edges = [lanes, ends[self.window - 1 :: self.window], ends[-1:]]
        return firsts, ends - sizes[order], np.unique(np.concatenate(edges))

    def _new_shuffle(self, source: int, epoch: int, window: int) -> np.ndarray:
        """The order in which the groups of a window are read."""
        _, _, edges = self._layout(source, epoch)
        # Not address 0: numpy takes [1, 2] and [1, 2, 0] for the same seed.
        generator = self._generator(source, epoch, window + 1)
        return generator.permutation(edges[window + 1] - edges[window])

    def _generator(self, *address: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *address])

    def __reduce__(self) -> Any:  # without what was kept
        arguments, options = self._arguments
        return functools.partial(ShardedSampler, **options), arguments


def _source_pattern(
    weights: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One period: the source of each turn, turns of each source, and turns before.

    The bits of the turn in reverse are a number in [0, 65,536), and whose part of that
    line it lies in has the turn: every stretch meets every part in proportion.
    """
    if len(weights) == 1:
        return np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros(1, np.int64)
    shares = np.array(weights) / sum(weights) * PERIOD
    counts = np.floor(shares).astype(np.int64)
    # The turns that rounding left go to those that lost most.
    behind = np.argsort(counts - shares, kind="stable")
    counts[behind[: PERIOD - counts.sum()]] += 1
    require(
        bool((counts > 0).all()),
        f"A source of a mixture has one turn of {PERIOD} or more; got weights "
        f"{weights}: leave out the smallest.",
    )
    turns, reverse = np.arange(PERIOD), np.zeros(PERIOD, np.int64)
    for bit in range(PERIOD.bit_length() - 1):
        reverse = 2 * reverse + ((turns >> bit) & 1)
    sources = np.searchsorted(np.cumsum(counts), reverse, side="right")
    ranks = np.empty(PERIOD, np.int64)
    for source, count in enumerate(counts.tolist()):
        ranks[sources == source] = np.arange(count)
    return sources, counts, ranks
