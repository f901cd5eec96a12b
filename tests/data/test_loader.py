import itertools
import threading

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.loader import batches, read_ahead, rows_at


SEEDS = st.integers(0, 2**31 - 1)
ARRAYS = {"image": np.arange(48).reshape(24, 2), "label": np.arange(24)}


def _first(count, *arguments, **options):
    return list(itertools.islice(batches(*arguments, **options), count))


@given(seed=SEEDS, start=st.integers(0, 12), group=st.sampled_from([1, 2, 4]))
def test_a_resumed_run_reads_what_it_would_have_read(seed, start, group):
    # 24 examples make three batches: the start is often inside an epoch.
    whole = _first(15, ARRAYS, 8, seed=seed, group=group)
    rest = _first(15 - start, ARRAYS, 8, seed=seed, group=group, start_step=start)
    np.testing.assert_equal(rest, whole[start:])


@given(seed=SEEDS, epoch=st.integers(0, 5), group=st.sampled_from([1, 2]))
def test_an_epoch_shows_an_example_once_at_most(seed, epoch, group):
    steps = range(5 * epoch, 5 * epoch + 5)
    seen = [rows_at(step, 42, 8, seed=seed, group=group) for step in steps]
    assert len(np.unique(np.concatenate(seen))) == 40


@given(seed=SEEDS, step=st.integers(0, 20))
def test_groups_stay_together_and_in_order(seed, step):
    rows = rows_at(step, 48, 16, seed=seed, group=4).reshape(-1, 4)
    assert (rows[:, 0] % 4 == 0).all()
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(4))


def test_epochs_and_seeds_have_different_orders():
    first, second = (rows_at(step, 64, 64, seed=0) for step in (0, 1))
    other = rows_at(0, 64, 64, seed=1)
    assert (first != second).any()
    assert (first != other).any()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_order(num_threads):
    read = lambda item: 3 * item
    found = read_ahead(read, range(20), num_threads=num_threads, num_ahead=4)
    assert [*found] == [3 * item for item in range(20)]


def test_threads_end_with_the_reading():
    before = {*threading.enumerate()}
    reading = read_ahead(str, itertools.count(), num_threads=3, num_ahead=6)
    next(reading)
    readers = {*threading.enumerate()} - before
    assert readers
    reading.close()
    for reader in readers:
        reader.join(timeout=10)
        assert not reader.is_alive()


def test_an_item_that_cannot_be_read_is_an_error_where_it_comes():
    def read(item):
        if item == 7:
            raise OSError("item 7")
        return item

    reading = read_ahead(read, itertools.count(), num_threads=2, num_ahead=4)
    assert [*itertools.islice(reading, 7)] == [*range(7)]
    with pytest.raises(OSError, match="item 7"):
        next(reading)


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match=r"`num_threads` \(0\) must be positive"):
        next(read_ahead(str, range(8), num_threads=0, num_ahead=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 48}, "48 of 24"),
        ({"batch_size": 0}, "0 of 24"),
        ({"batch_size": 6, "group": 4}, "whole groups"),
    ],
)
def test_an_impossible_batch_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        batches(ARRAYS, **options, seed=0)


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        batches({"a": np.zeros(8), "b": np.zeros(9)}, 4, seed=0)
