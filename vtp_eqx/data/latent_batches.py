"""Batches of a cache of latents, whose order is a function of (seed, step)."""

from collections.abc import Iterator
import itertools

from jaxtyping import Int
import numpy as np

from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.latents import LatentCache, Latents
from vtp_eqx.data.loader import read_ahead
from vtp_eqx.data.sampler import ShardedSampler


MIXED_IMAGES = 2**20  # ours: what is shuffled together; sorted class folders need it


def latent_batches(
    cache: LatentCache,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    num_threads: int = 4,
    captions: bool = False,
) -> Iterator[tuple[Latents, Int[np.ndarray, "num ..."]]]:
    """Normalized latents and labels from step `start_step` on, without end.

    With `captions`, their ids come in place of labels, for a cache that has them.

    A batch is a function of (seed, step); shard `(i, n)` reads the `i`-th of `n` equal
    parts of it. Each image comes once an epoch, in one of its views at random.
    """
    sizes = [shard.count for shard in cache.shards]
    window = -(-MIXED_IMAGES // max(sizes))
    sampler = ShardedSampler([sizes], batch_size, seed=seed, window=window)
    positions = sampler.positions(shard)
    given = cache.captions if captions else cache.labels
    assert given is not None

    def read(step: int) -> tuple[Latents, Int[np.ndarray, "num ..."]]:
        rows = sampler.rows(step, positions)
        rng = CounterRNG(seed, step * batch_size + positions)
        views = rng.integer("view", cache.num_views)
        latents = (cache.read(rows, views) - cache.mean) / cache.std
        return latents, given[rows]

    # Threads work on different batches, so that each needs several in flight.
    return read_ahead(
        read,
        itertools.count(start_step),
        num_threads=num_threads,
        num_ahead=2 * num_threads,
    )
