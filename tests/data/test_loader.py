import itertools
import threading

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.loader import batches, rows_at, stacked


SEEDS = st.integers(0, 2**31 - 1)
ARRAYS = {"image": np.arange(48).reshape(24, 2), "label": np.arange(24)}


class Rows:
    """The same examples as `ARRAYS`, one at a time."""

    def __len__(self):
        return 24

    def __getitem__(self, row):
        return {name: values[row] for name, values in ARRAYS.items()}


def _first(count, *arguments, **options):
    return list(itertools.islice(batches(*arguments, **options), count))


@given(seed=SEEDS, start=st.integers(0, 12), group=st.sampled_from([1, 2, 4]))
def test_a_resumed_run_reads_what_it_would_have_read(seed, start, group):
    # 24 examples make three batches: the start is often inside an epoch.
    whole = _first(15, ARRAYS, 8, seed=seed, group=group)
    rest = _first(15 - start, ARRAYS, 8, seed=seed, group=group, start_step=start)
    np.testing.assert_equal(rest, whole[start:])


@given(seed=SEEDS, step=st.integers(0, 50), group=st.sampled_from([1, 4]))
def test_shards_are_disjoint_and_make_up_the_batch(seed, step, group):
    whole = rows_at(step, 40, 16, seed=seed, group=group)
    for count in (2, 4):
        shards = [
            rows_at(step, 40, 16, seed=seed, group=group, shard=(index, count))
            for index in range(count)
        ]
        assert {len(shard) for shard in shards} == {16 // count}
        np.testing.assert_array_equal(np.concatenate(shards), whole)


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


def test_a_source_on_disk_gives_the_batches_of_arrays_in_memory():
    arrays = _first(7, ARRAYS, 8, seed=3, group=2, start_step=2)
    source = _first(7, Rows(), 8, seed=3, group=2, start_step=2, num_threads=2)
    np.testing.assert_equal(source, arrays)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_batch(num_threads):
    options = {"seed": 3, "start_step": 1}
    expected = _first(9, ARRAYS, 8, **options)
    found = _first(9, Rows(), 8, **options, num_threads=num_threads)
    np.testing.assert_equal(found, expected)


def test_threads_end_with_the_batches():
    before = {*threading.enumerate()}
    reading = batches(Rows(), 8, seed=0, num_threads=3)
    next(reading)
    readers = {*threading.enumerate()} - before
    assert readers
    reading.close()
    for reader in readers:
        reader.join(timeout=10)
        assert not reader.is_alive()


def test_an_example_that_cannot_be_read_is_an_error_of_its_batch():
    class Damaged(Rows):
        def __getitem__(self, row):
            if row == 7:
                raise OSError("row 7")
            return super().__getitem__(row)

    bad = next(step for step in range(3) if 7 in rows_at(step, 24, 8, seed=0))
    reading = batches(Damaged(), 8, seed=0, num_threads=2)
    for _ in range(bad):
        next(reading)
    with pytest.raises(OSError, match="row 7"):
        next(reading)


def test_no_threads_are_refused_at_once():
    with pytest.raises(ValueError, match=r"`num_threads` \(0\) must be positive"):
        batches(Rows(), 8, seed=0, num_threads=0)


def test_texts_are_stacked_whatever_their_length():
    batch = stacked([{"caption": "a"}, {"caption": "a red star"}])
    assert batch["caption"].tolist() == ["a", "a red star"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 48}, "48 of 24"),
        ({"batch_size": 0}, "0 of 24"),
        ({"batch_size": 6, "group": 4}, "whole groups"),
        ({"batch_size": 8, "shard": (2, 2)}, "shard 2 of 2"),
        ({"batch_size": 8, "shard": (0, 3)}, "evenly"),
    ],
)
def test_an_impossible_batch_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        batches(ARRAYS, **options, seed=0)


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        batches({"a": np.zeros(8), "b": np.zeros(9)}, 4, seed=0)
