"""The rows that each step reads: a two-level shuffle, as a function of (seed, step).

A permutation of a billion rows would fill the memory, and jump over a network file
system at every row. Instead each epoch puts the shards (tars) in a new random order and
shuffles the rows of a few shards at a time, the *window*. A step therefore reads from
few files, and over the time of a window all of each; memory grows with the number of
shards and the rows of a window.

There is no iterator state: a run that stopped before step `s` continues with step `s`.
"""

from collections.abc import Sequence
import functools
import threading
from typing import Any

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require


PERIOD = 2**16  # draws over which the shares of a mixture are exact


class ShardedSampler:
    """The rows of each step: `sampler(step)` of the whole batch, and
    `sampler(step, (i, n))` of the `i`-th of `n` equal contiguous parts of it.

    Epochs follow one another without a gap: a batch may hold the end of one and the
    start of the next. Each epoch has every row once. With `one_shard_batches`, no
    batch holds rows of two shards or of two epochs; an epoch leaves out the rows of a
    shard that do not fill a batch, at random.

    With several sources, the source of each draw is a fixed sequence of low discrepancy
    (van der Corput's; not independent draws). Shares are exact, to 1/65,536, over every
    65,536 draws, and off by a few draws over any other stretch. Each source runs
    through epochs of its own; its rows are numbered after those of the sources before
    it, as those of a `mixture.Mixture` are.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int] | Int[np.ndarray, "..."]],
        batch_size: int,
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        window: int = 16,
        group: int = 1,
        one_shard_batches: bool = False,
    ):
        """`sizes` are the numbers of rows of each shard, for each source.

        **Arguments:**

        - `batch_size`: rows of the batch of all processes together.
        - `weights`: shares of the sources in the batches; by default their rows.
        - `window`: shards whose rows are shuffled together.
        - `group`: this many consecutive rows stay together and in order.
        - `one_shard_batches`: each batch is of one shard, of one source in windows of
            1: for rows that must not meet in a batch, and lie in different shards.
        """
        shards = [np.asarray(counts, np.int64) for counts in sizes]
        totals = np.array([counts.sum() for counts in shards], np.int64)
        shares: list[float] = totals.tolist() if weights is None else list(weights)
        require(
            group > 0 and batch_size > 0 and batch_size % group == 0,
            f"`batch_size` ({batch_size}) must be a positive multiple of `group` "
            f"({group}): change either.",
        )
        require(window > 0, f"`window` ({window}) must be 1 shard or more: raise it.")
        require(
            all((counts % group == 0).all() for counts in shards),
            f"`group` ({group}) must divide the number of rows of every shard: take "
            "groups of 1.",
        )
        require(
            len(totals) > 0 and bool((totals >= group).all()),
            f"`sizes` has sources of {totals.tolist()} rows; each needs `group` "
            f"({group}) or more: leave out what is empty.",
        )
        require(
            len(shares) == len(totals) and all(0 < share < np.inf for share in shares),
            f"`weights` ({shares}) must be positive, one for each of {len(totals)} "
            "sources: leave out what is not to be read.",
        )
        require(
            not one_shard_batches or (len(shards) == 1 and window == 1),
            "`one_shard_batches` needs one source in windows of 1 shard; got "
            f"{len(shards)} sources and `window` {window}: set `window` to 1, or leave "
            "it out.",
        )
        require(
            not one_shard_batches or bool((shards[0] >= batch_size).all()),
            f"`one_shard_batches` needs shards of `batch_size` ({batch_size}) rows or "
            f"more; the smallest has {shards[0].min()}: make batches smaller, or "
            "shards larger.",
        )
        self.batch_size, self.seed, self.group = batch_size, seed, group
        self.window = window
        self._sizes = [counts // group for counts in shards]  # in groups, as all below
        self._one_shard_batches = one_shard_batches
        # Of an epoch.
        self._lengths = np.array([self._drawn(counts).sum() for counts in self._sizes])
        self._starts = (np.cumsum(totals) - totals) // group
        self._source_of, self._counts, self._ranks = _source_pattern(tuple(shares))
        self._arguments = (sizes, batch_size), {
            "seed": seed, "weights": weights, "window": window, "group": group,
            "one_shard_batches": one_shard_batches,
        }  # fmt: skip
        # Each source is in one window, or crosses from one into the next.
        self._layout = functools.lru_cache(2 * len(shards) + 2)(self._new_layout)
        self._shuffle = functools.lru_cache(2 * len(shards) + 2)(self._new_shuffle)
        # Threads that miss at once would each make the same.
        self._making = threading.Lock()

    def __call__(
        self, step: int, shard: tuple[int, int] = (0, 1)
    ) -> Int[np.ndarray, " local"]:
        return self.rows(step, self.positions(shard))

    def positions(self, shard: tuple[int, int] = (0, 1)) -> Int[np.ndarray, " local"]:
        """The positions in the batch that are the `i`-th of `n` equal parts of it."""
        index, count = shard
        require(
            0 <= index < count and self.batch_size % (count * self.group) == 0,
            f"`shard` ({index} of {count}) must be a part of `batch_size` "
            f"({self.batch_size}) in whole groups of {self.group}: change either.",
        )
        local = self.batch_size // count
        return np.arange(index * local, (index + 1) * local)

    def rows(
        self, step: int, positions: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, " n"]:
        """The rows at some positions of the batch of `step`."""
        group, member = np.divmod(positions, self.group)
        draws = step * (self.batch_size // self.group) + group
        period, draw = np.divmod(draws, len(self._source_of))
        source = self._source_of[draw]
        draw = period * self._counts[source] + self._ranks[draw]
        epoch, draw = np.divmod(draw, self._lengths[source])
        rows = np.empty_like(draw)
        for number, now in set(zip(source.tolist(), epoch.tolist(), strict=True)):
            chosen = (source == number) & (epoch == now)
            read = self._read(number, now, draw[chosen])
            rows[chosen] = self._starts[number] + read
        return rows * self.group + member

    def _read(self, source: int, epoch: int, draws: np.ndarray) -> np.ndarray:
        """The groups that an epoch of a source reads at some of its draws."""
        with self._making:
            firsts, starts, edges, begins = self._layout(source, epoch)
        window = np.searchsorted(begins, draws, side="right") - 1
        shuffled = np.empty_like(draws)
        for number in np.unique(window).tolist():
            inside, edge = window == number, edges[number]
            with self._making:
                shuffle = self._shuffle(source, epoch, number)
            shuffled[inside] = edge + shuffle[draws[inside] - begins[number]]
        shard = np.searchsorted(starts, shuffled, side="right") - 1
        return firsts[shard] + shuffled - starts[shard]

    def _new_layout(
        self, source: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """First group of each shard and where the shard starts, in the epoch's order.

        Then, where the windows begin and end, and with which draws.
        """
        sizes = self._sizes[source]
        order = self._generator(source, epoch).permutation(len(sizes))
        ends = np.cumsum(sizes[order])
        firsts = (np.cumsum(sizes) - sizes)[order]
        edges = np.unique(
            np.concatenate([[0], ends[self.window - 1 :: self.window], ends[-1:]])
        )
        begins = np.cumsum([0, *self._drawn(np.diff(edges))])
        return firsts, ends - sizes[order], edges, begins

    def _drawn(self, groups: np.ndarray) -> np.ndarray:
        """How many of the groups of each shard, or window of shards, an epoch draws."""
        if not self._one_shard_batches:
            return groups
        per_batch = self.batch_size // self.group
        return groups // per_batch * per_batch

    def _new_shuffle(self, source: int, epoch: int, window: int) -> np.ndarray:
        """The order in which the groups of a window are read."""
        _, _, edges, _ = self._layout(source, epoch)
        # Not address 0: numpy takes [1, 2] and [1, 2, 0] for the same seed.
        generator = self._generator(source, epoch, window + 1)
        return generator.permutation(edges[window + 1] - edges[window])

    def _generator(self, *address: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *address])

    def __reduce__(self) -> Any:  # without its caches
        arguments, options = self._arguments
        return functools.partial(ShardedSampler, **options), arguments


def _source_pattern(
    weights: tuple[float, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The source of each draw of a period, draws of each source, and its draws before.

    The bits of a draw's number in reverse are a number in [0, 65,536), and the part of
    that line it lies in is the source: every stretch meets every part in proportion.
    """
    if len(weights) == 1:
        return np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros(1, np.int64)
    shares = np.array(weights) / sum(weights) * PERIOD
    counts = np.floor(shares).astype(np.int64)
    # The draws that rounding left go to those that lost most.
    most_lost = np.argsort(counts - shares, kind="stable")
    counts[most_lost[: PERIOD - counts.sum()]] += 1
    require(
        bool((counts > 0).all()),
        f"`weights` ({weights}) must each be 1/{PERIOD} of their sum or more: leave "
        "out the smallest.",
    )
    draws, reverse = np.arange(PERIOD), np.zeros(PERIOD, np.int64)
    for bit in range(PERIOD.bit_length() - 1):
        reverse = 2 * reverse + ((draws >> bit) & 1)
    sources = np.searchsorted(np.cumsum(counts), reverse, side="right")
    ranks = np.empty(PERIOD, np.int64)
    for source, count in enumerate(counts.tolist()):
        ranks[sources == source] = np.arange(count)
    return sources, counts, ranks
