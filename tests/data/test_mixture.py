import pickle
import shutil
import tracemalloc

import numpy as np
import pytest

from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.mixture import (
    example_name,
    make_sampler,
    Mixture,
    read_encoded,
    source_fingerprint,
)
from vtp_eqx.data.sampler import ShardedSampler
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.tars import TarSource


@pytest.fixture
def arrays():
    images = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
    return ArraySource({"image": images, "label": np.arange(6)})


@pytest.fixture
def tars(tmp_path, write_tar, captioned):
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", captioned(4 * shard, 4))
    return TarSource(tmp_path)


def test_rows_run_through_one_source_after_the_other(arrays, tars):
    mixture = pickle.loads(pickle.dumps(Mixture([arrays, tars])))
    assert len(mixture) == 18
    assert (mixture[5]["label"], mixture[5]["id"]) == (5, 5)
    assert (mixture[6]["caption"], mixture[6]["id"]) == ("picture 0", 6)
    assert mixture[17]["caption"] == "picture 11"
    assert [example_name(mixture, row) for row in (3, 10)] == ["row 3", "1.tar/000004"]
    assert isinstance(read_encoded(mixture, 6)["image"], bytes)
    assert read_encoded(mixture, 0)["image"].shape == (4, 4, 3)
    for row in (-1, 18):
        with pytest.raises(IndexError):
            mixture[row]


def test_a_source_may_come_twice(arrays):
    mixture = Mixture([arrays, arrays])
    assert [mixture[row]["label"] for row in (1, 7, 11)] == [1, 1, 5]


def test_the_order_of_a_mixture_keeps_its_weights_and_its_tars_together(arrays, tars):
    mixture = Mixture([arrays, tars], weights=[1, 3])
    order = make_sampler(mixture, 8, seed=0, window=1)
    rows = np.concatenate([order(step) for step in range(6)])
    assert (rows < 6).sum() == 12
    shards = (rows[rows >= 6] - 6) // 4
    # With windows of one tar, all of it is read before the next.
    assert (shards.reshape(-1, 4) == shards[::4, None]).all()


def test_a_source_alone_has_an_order_too(arrays, tars):
    for source in (arrays, tars):
        rows = make_sampler(source, len(source), seed=3)(0)
        assert sorted(rows.tolist()) == list(range(len(source)))


class Rows:
    """A source that has nothing but rows."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return {"id": row}


@pytest.mark.parametrize("count", [24, 12_000, 2**16])
def test_a_source_without_shards_is_one_where_it_is_small(count):
    order = make_sampler(Rows(count), 8, seed=1, group=4)
    alone = ShardedSampler([[count]], 8, seed=1, group=4)
    for step in (0, 1, count):
        np.testing.assert_array_equal(order(step), alone(step))


def test_a_large_source_without_shards_is_shuffled_a_window_at_a_time():
    count = 3 * 2**16 + 3
    order = make_sampler(Rows(count), 3000, seed=0, window=1, group=3)
    rows = np.concatenate([order(step) for step in range(66)])[:count]
    assert (np.sort(rows) == np.arange(count)).all()
    part = 2**16 // 3 * 3
    parts = rows // part
    # One after the other, the short one at the end too, but not in their own order.
    assert (np.diff(parts) != 0).sum() == 3
    assert set(parts.tolist()) == {0, 1, 2, 3}


def test_a_billion_rows_without_shards_take_little_memory():
    tracemalloc.start()
    order = make_sampler(Rows(10**9), 64, seed=0)
    order(10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_the_fingerprint_follows_sources_and_weights(arrays, tars):
    prints = {
        Mixture(sources, weights).fingerprint
        for sources in ([arrays, tars], [tars, arrays], [tars])
        for weights in (None, [0.25] * len(sources))
    }
    assert len(prints) == 6


def test_what_cannot_be_read_is_named_by_its_source(tmp_path, arrays, write_tar):
    mixture = Mixture(
        [arrays, TarSource(write_tar(tmp_path / "0.tar", {"a.jpg": b"x"}))]
    )
    with pytest.raises(UnreadableImageError, match=r"0\.tar/a"):
        mixture[6]


def test_mixtures_of_mixtures_and_of_nothing_are_refused(arrays):
    for sources in ([], [Mixture([arrays])]):
        with pytest.raises(ValueError, match="all sources at once"):
            Mixture(sources)


def test_the_identity_of_a_copy_is_that_of_the_set(tmp_path, arrays, tars, photograph):
    images = tmp_path / "images"
    images.mkdir()
    for name in "ab":
        photograph.save(images / f"{name}.png")
    open_all = lambda root: [TarSource(root), FolderSource(root / "images")]
    told = [source_fingerprint(source) for source in open_all(tmp_path)]
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    # Not the times, as `cp -r` and downloads do not keep them.
    shutil.copytree(tmp_path, copy, copy_function=shutil.copyfile)
    assert [source_fingerprint(source) for source in open_all(copy)] == told
    mixed = [
        source_fingerprint(Mixture([arrays, *open_all(root)]))
        for root in (tmp_path, copy)
    ]
    assert mixed[0] == mixed[1]
    assert mixed[0].startswith("20 examples ")


def test_a_source_without_a_fingerprint_has_its_length():
    assert (
        source_fingerprint([{"image": np.zeros((4, 4, 3), np.uint8)}]) == "1 examples"
    )
