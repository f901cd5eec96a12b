from concurrent.futures import ThreadPoolExecutor
import pickle
import time
import tracemalloc

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.sampler import PERIOD, ShardedSampler


SEEDS = st.integers(0, 2**31 - 1)
SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(
    lambda s: sum(s) >= 8
)


def epoch_of(sampler, num_rows, epoch=0):
    """What one epoch reads, in order."""
    size = sampler.batch_size
    draws = range(epoch * num_rows, (epoch + 1) * num_rows)
    rows = [sampler.rows(draw // size, np.array([draw % size])) for draw in draws]
    return np.concatenate(rows)


@given(sizes=SHARDS, seed=SEEDS, window=st.integers(1, 4), epoch=st.integers(0, 3))
def test_an_epoch_has_every_row_once(sizes, seed, window, epoch):
    sampler = ShardedSampler([sizes], 2, seed=seed, window=window)
    read = epoch_of(sampler, sum(sizes), epoch)
    np.testing.assert_array_equal(np.sort(read), np.arange(sum(sizes)))


@given(sizes=SHARDS, seed=SEEDS, step=st.integers(0, 50))
def test_processes_read_disjoint_parts_of_the_batch_of_one(sizes, seed, step):
    sampler = ShardedSampler([sizes], 8, seed=seed, window=2)
    whole = sampler(step)
    for count in (2, 4, 8):
        parts = [sampler(step, (index, count)) for index in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(sizes=SHARDS, seed=SEEDS, steps=st.permutations(range(8)))
def test_a_step_is_a_function_of_seed_and_step_alone(sizes, seed, steps):
    order = ShardedSampler([sizes, [5, 6]], 8, seed=seed, window=2)
    in_turn = [order(step) for step in range(8)]
    fresh = pickle.loads(pickle.dumps(order))
    for step in steps:
        np.testing.assert_array_equal(fresh(step), in_turn[step])
        np.testing.assert_array_equal(fresh(step, (1, 2)), in_turn[step][4:])


@given(seed=SEEDS, window=st.sampled_from([1, 3, 5]))
def test_a_window_is_read_before_the_next_one_begins(seed, window):
    sizes = [7, 3, 5, 8, 2, 6, 4]
    shard_of = np.repeat(np.arange(7), sizes)
    seen = epoch_of(ShardedSampler([sizes], 5, seed=seed, window=window), 35)
    shards = shard_of[seen]
    met = list(dict.fromkeys(shards.tolist()))
    last = {shard: np.flatnonzero(shards == shard).max() for shard in met}
    first = {shard: np.flatnonzero(shards == shard).min() for shard in met}
    for shard in met:
        # All of a window of shards are done when a shard of the next window begins.
        done = [other for other in met if last[other] < first[shard]]
        assert len(met[: met.index(shard)]) - len(done) < window


def test_rows_shards_epochs_and_seeds_are_mixed():
    order = lambda seed: ShardedSampler([[100] * 20], 50, seed=seed, window=4)
    first, second = (epoch_of(order(0), 2000, epoch=epoch) for epoch in (0, 1))
    other = epoch_of(order(1), 2000)
    assert (first != second).mean() > 0.99
    assert (first != other).mean() > 0.99
    # Neighbors in a window of four shards are of different shards three times in four.
    apart = (np.diff(first // 100) != 0).mean()
    assert 0.7 < apart < 0.8


def test_one_window_over_all_shards_is_a_whole_shuffle():
    positions = []
    for seed in range(400):
        seen = epoch_of(ShardedSampler([[3, 2, 4]], 3, seed=seed, window=3), 9)
        positions.append(np.argsort(seen))
    # Each row is at each of nine positions about as often: 44.4 +- 6.3 of 400.
    counts = [np.bincount(column, minlength=9) for column in np.transpose(positions)]
    assert np.min(counts) > 20
    assert np.max(counts) < 75


@given(seed=SEEDS, step=st.integers(0, 20))
def test_groups_stay_together_and_in_order(seed, step):
    order = ShardedSampler([[8, 12, 4], [16]], 16, seed=seed, group=4, window=2)
    rows = order(step).reshape(-1, 4)
    assert (rows[:, 0] % 4 == 0).all()
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(4))


@given(
    sizes=st.lists(st.integers(4, 13), min_size=1, max_size=6),
    seed=SEEDS,
    group=st.sampled_from([1, 2]),
)
def test_batches_of_one_shard_never_hold_two_and_leave_out_less_than_one(
    sizes, seed, group
):
    sizes = [size // group * group for size in sizes]
    order = ShardedSampler(
        [sizes], 4, seed=seed, window=1, group=group, one_shard_batches=True
    )
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    steps = sum(size // 4 for size in sizes)
    left_out = set()
    for epoch in range(3):
        rows = np.stack([order(epoch * steps + step) for step in range(steps)])
        shards = shard_of[rows]
        assert (shards == shards[:, :1]).all()
        assert (rows.reshape(-1, group) % group == np.arange(group)).all()
        assert len(np.unique(rows)) == rows.size
        read = np.bincount(shards.ravel(), minlength=len(sizes))
        np.testing.assert_array_equal(read, np.array(sizes) // 4 * 4)
        left_out |= {*range(sum(sizes))} - {*rows.ravel().tolist()}
    assert len(left_out) <= 3 * 3 * len(sizes)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(order))(5), order(5))
    np.testing.assert_array_equal(order(5, (1, 2)), order(5)[2:])


def test_what_an_epoch_leaves_out_of_a_shard_changes():
    order = ShardedSampler([[7]], 4, seed=0, window=1, one_shard_batches=True)
    read = np.concatenate([order(step) for step in range(40)])
    assert np.bincount(read, minlength=7).min() > 10


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=2, max_size=5),
    start=st.integers(0, 2**20),
    length=st.integers(1, 5000),
)
def test_shares_are_those_of_the_weights_over_any_stretch(weights, start, length):
    sizes = [[50]] * len(weights)
    sources = (
        ShardedSampler(sizes, length, seed=0, weights=weights)(start // length) // 50
    )
    shares = np.array(weights) / sum(weights)
    found = np.bincount(sources, minlength=len(weights))
    # A part of the line is made of at most 2 log2 pieces, each off by less than one.
    assert np.abs(found - shares * length).max() <= 2 * 16 + length / PERIOD


def test_shares_are_exact_over_a_period():
    weights = [0.5, 0.3, 0.2]
    order = ShardedSampler([[7], [11], [300]], PERIOD, seed=0, weights=weights)
    for step in (0, 5):
        sources = np.searchsorted([7, 18], order(step), side="right")
        found = np.bincount(sources) / PERIOD
        assert np.abs(found - weights).max() <= 1 / PERIOD


@given(seed=SEEDS)
def test_each_source_of_a_mixture_runs_through_epochs_of_its_own(seed):
    order = ShardedSampler([[5, 6], [3]], 4, seed=seed, weights=[3, 1], window=1)
    rows = np.concatenate([order(step) for step in range(33)])
    for own, size in ((rows[rows < 11], 11), (rows[rows >= 11], 3)):
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) >= 9
        assert (np.sort(epochs, axis=1) == np.unique(own)).all()


def test_memory_does_not_grow_with_the_number_of_rows():
    tracemalloc.start()
    order = ShardedSampler([[10_000] * 100_000], 64, seed=0)  # a billion
    for step in (0, 10**6, 10**7):
        order(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_threads_that_need_a_shuffle_at_once_make_it_once(monkeypatch):
    made, make = [], ShardedSampler._new_shuffle

    def slowly(self, *place):
        made.append(place)
        time.sleep(0.02)
        return make(self, *place)

    monkeypatch.setattr(ShardedSampler, "_new_shuffle", slowly)
    order = ShardedSampler([[50, 50], [30]], 8, seed=0, window=1)
    with ThreadPoolExecutor(8) as pool:
        rows = [*pool.map(order, [0] * 8)]
    assert all((one == rows[0]).all() for one in rows)
    assert len(made) == len(set(made)) == 2


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([[8]], {"group": 3}, r"`batch_size` \(8\) must be a positive multiple"),
        ([[6, 2]], {"group": 4}, r"`group` \(4\) must divide"),
        ([[8]], {"window": 0}, r"`window` \(0\)"),
        ([[4], [0]], {"group": 4}, r"\[4, 0\] rows"),
        ([], {}, "leave out what is empty"),
        ([[8]], {"weights": [1.0, 2.0]}, "for each of 1 sources"),
        ([[8], [8]], {"weights": [1.0, 0.0]}, "must be positive"),
        ([[8], [8]], {"weights": [1.0, 1e-9]}, "leave out the smallest"),
        ([[8]], {"one_shard_batches": True}, "windows of 1 shard; got 1 sources and"),
        (
            [[8], [8]],
            {"one_shard_batches": True, "window": 1},
            "one source in windows of 1 shard; got 2",
        ),
        (
            [[9, 7]],
            {"one_shard_batches": True, "window": 1},
            r"`batch_size` \(8\) rows or more; the smallest has 7",
        ),
    ],
)
def test_an_impossible_sampler_is_refused_at_once(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        ShardedSampler(sizes, 8, seed=0, **options)


def test_a_shard_that_does_not_split_the_batch_is_refused():
    for shard in ((0, 3), (2, 2)):
        with pytest.raises(ValueError, match="must be a part of `batch_size`"):
            ShardedSampler([[9]], 8, seed=0)(0, shard)
