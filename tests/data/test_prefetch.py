from concurrent.futures.process import BrokenProcessPool
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import pickle
import signal
import threading
import time

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from vtp_eqx.data import prefetch
from vtp_eqx.data.bad_examples import BadExampleLog, read_bad_examples
from vtp_eqx.data.mixture import make_sampler, Mixture
from vtp_eqx.data.prefetch import ExampleReader, Prefetcher
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.tars import TarSource
from vtp_eqx.data.text.caption_bpe import train_tokenizer


BAD = {"cut": 3, "no caption": 7, "empty": 11, "missing caption": 18, "small": 21}


def ids(texts):
    """The last word of each caption, a number, twice."""
    return np.array([[int(text.split()[-1])] * 2 for text in texts], np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tar, captioned, encoded):
    """Four tars of 8, 8, 8 and 6 examples: five of them bad, one repaired."""
    folder = tmp_path_factory.mktemp("stream")
    members = captioned(0, 30)
    members["000003.jpg"] = members["000003.jpg"][:200]
    members["000007.txt"] = b" \n"
    members["000011.jpg"] = b""
    del members["000018.txt"]
    members["000021.jpg"] = encoded(21, shape=(40, 6))
    members["000026.txt"] = b"caf\xe9 26"
    for shard, start in enumerate(range(0, 30, 8)):
        keys = [f"{value:06d}" for value in range(start, min(start + 8, 30))]
        part = {name: members[name] for name in members if name[:6] in keys}
        write_tar(folder / f"{shard}.tar", part)
    return folder


@pytest.fixture
def reader(folder):
    source = TarSource(folder)
    sampler = make_sampler(source, 6, seed=0, window=2)
    return ExampleReader(source=source, sampler=sampler, size=16, encode=ids)


def first(count, reader, **options):
    with Prefetcher(reader, num_workers=2, **options) as stream:
        return list(itertools.islice(stream, count))


def assert_equal(batch, other):
    for name in ("step", "row", "image", "label", "tokens", "bad_examples"):
        np.testing.assert_equal(getattr(batch, name), getattr(other, name))


def test_an_example_is_a_square_with_its_tokens_and_label(reader):
    for batch in first(10, reader):
        assert batch.image.shape == (6, 16, 16, 3)
        assert batch.image.dtype == np.uint8
        colors = batch.image[..., 0].mean(axis=(1, 2))
        assert (np.abs(colors - batch.row) <= 2).all()
        np.testing.assert_array_equal(batch.tokens, np.stack([batch.row] * 2, axis=1))
        np.testing.assert_array_equal(batch.label, batch.row % 7)


def test_bad_examples_are_named_once_an_epoch_and_never_read(reader):
    batches = first(5, reader)  # one epoch
    rows = np.concatenate([batch.row for batch in batches])
    assert not set(rows.tolist()) & set(BAD.values())
    found = [bad for batch in batches for bad in batch.bad_examples]
    skipped = {bad.row: bad for bad in found if bad.skipped}
    assert skipped.keys() == set(BAD.values())
    assert len(found) == len(BAD) + 1
    assert skipped[3].name == "0.tar/000003"
    assert skipped[7].reason == "an empty caption"
    assert skipped[18].reason == "no caption"
    assert skipped[21].reason == "6 x 40 pixels, and 16 are wanted"
    (repaired,) = [bad for bad in found if not bad.skipped]
    assert repaired.row == 26
    assert "UTF-8" in repaired.reason


def test_a_replacement_comes_from_the_same_position_of_later_steps(reader):
    batches = first(5, reader)
    for batch in batches:
        requested = reader.sampler(batch.step)
        for position in np.flatnonzero(batch.row != requested):
            assert requested[position] in BAD.values()
            later = [
                int(reader.sampler(batch.step + 2**attempt - 1)[position])
                for attempt in range(1, 6)
            ]
            good = [row for row in later if row not in BAD.values()]
            assert batch.row[position] == good[0]
    # Every good example is read, and only replacements are read twice.
    rows = np.concatenate([batch.row for batch in batches]).tolist()
    assert set(rows) == set(range(30)) - set(BAD.values())
    assert len(rows) == 30


@settings(max_examples=5)
@given(start=st.integers(0, 12))
def test_a_resumed_prefetcher_reads_what_it_would_have_read(folder, start):
    source = TarSource(folder)
    sampler = make_sampler(source, 6, seed=4, window=1)
    reader = ExampleReader(source=source, sampler=sampler, size=16, encode=ids)
    whole, rest = first(14, reader), first(14 - start, reader, start_step=start)
    for batch, other in zip(whole[start:], rest, strict=True):
        assert_equal(batch, other)


@pytest.mark.parametrize(("num_workers", "num_ahead"), [(5, 4), (1, 1)])
def test_workers_do_not_change_a_batch(reader, num_workers, num_ahead, monkeypatch):
    monkeypatch.setattr(prefetch, "_NUM_AHEAD", num_ahead)
    with Prefetcher(reader, num_workers=num_workers) as stream:
        for batch, other in zip(first(7, reader), stream, strict=False):
            assert_equal(batch, other)


def test_shards_read_disjoint_parts_of_the_batch_of_one(reader):
    whole = first(8, reader)
    for count in (2, 3):
        parts = [first(8, reader, shard=(index, count)) for index in range(count)]
        for step, batch in enumerate(whole):
            for name in ("row", "image", "tokens"):
                joined = [getattr(part[step], name) for part in parts]
                np.testing.assert_array_equal(
                    np.concatenate(joined), getattr(batch, name)
                )
            names = [bad for part in parts for bad in part[step].bad_examples]
            assert names == list(batch.bad_examples)


def test_the_log_of_a_resumed_run_is_that_of_one_that_never_stopped(reader, tmp_path):
    def run(name, start, stop):
        log = BadExampleLog(tmp_path / name, start_step=start, max_skip_rate=1.0)
        with Prefetcher(reader, start_step=start, num_workers=2, log=log) as stream:
            for _ in range(start, stop):
                next(stream)
        log.close()

    run("whole", 0, 12)
    run("killed", 0, 9)
    run("killed", 6, 12)
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    names = {bad.name for bad in read_bad_examples(tmp_path / "whole") if bad.skipped}
    assert names == {f"{row // 8}.tar/{row:06d}" for row in BAD.values()}


def test_squares_lie_at_random_on_the_long_side_but_the_same_each_time(
    tmp_path, write_tar, photograph
):
    content = io.BytesIO()
    photograph.save(content, "PNG")
    path = write_tar(
        tmp_path / "0.tar", {f"{n}.png": content.getvalue() for n in "abcd"}
    )
    source = TarSource(path)
    sampler = make_sampler(source, 4, seed=1)
    make = functools.partial(ExampleReader, source=source, sampler=sampler, size=32)
    batches = [make().read(step, np.arange(4)).image for step in (0, 1, 0)]
    np.testing.assert_array_equal(batches[0], batches[2])
    seen = [image.tobytes() for batch in batches[:2] for image in batch]
    assert len(set(seen)) == 8
    middle = make(random_crop=False).read(0, np.arange(4)).image
    assert len({image.tobytes() for image in middle}) == 1


def test_any_source_can_be_streamed(folder):
    images = np.random.default_rng(0).integers(0, 256, (9, 20, 20, 3), dtype=np.uint8)
    arrays = ArraySource({"image": images, "label": np.arange(9)})
    mixture = Mixture([arrays, TarSource(folder)], weights=[1, 1])
    sampler = make_sampler(mixture, 8, seed=0)
    for batch in first(6, ExampleReader(source=mixture, sampler=sampler, size=20)):
        assert ((batch.row < 9).sum()) == 4
        assert batch.tokens is None
        for row, image in zip(batch.row, batch.image, strict=True):
            if row < 9:
                np.testing.assert_array_equal(image, images[row])


def test_a_tar_that_vanishes_is_replaced_and_too_many_stop_the_run(
    tmp_path, write_tar, captioned
):
    for shard in range(8):
        write_tar(tmp_path / f"{shard}.tar", captioned(64 * shard, 64))
    source = TarSource(tmp_path)
    reader = ExampleReader(
        source=source, sampler=make_sampler(source, 32, seed=0), size=16
    )
    (tmp_path / "3.tar").unlink()
    path = tmp_path / "log"
    log = BadExampleLog(path, max_skip_rate=0.3)
    with Prefetcher(reader, num_workers=2, log=log) as stream:
        for _ in range(16):  # an epoch
            assert not set(next(stream).row) & set(range(192, 256))
    log.close()
    assert len([*read_bad_examples(path)]) == 64
    log = BadExampleLog(path, max_skip_rate=0.1)
    with (
        contextlib.closing(log),
        Prefetcher(reader, num_workers=2, log=log) as stream,
        pytest.raises(ValueError, match=r"3.tar/0.* \(No such file"),
    ):
        list(itertools.islice(stream, 16))


def test_a_set_without_a_good_example_stops_with_a_sentence(tmp_path, write_tar):
    path = write_tar(tmp_path / "0.tar", {f"{n}.jpg": b"torn" for n in "abcd"})
    source = TarSource(path)
    reader = ExampleReader(
        source=source, sampler=make_sampler(source, 2, seed=0), size=16
    )
    with (
        Prefetcher(reader, num_workers=1) as stream,
        pytest.raises(
            ValueError,
            match=r"0.tar/. \(not an image that can be read: text that begins with "
            r"'torn'\) cannot be read, nor can any of 23",
        ),
    ):
        next(stream)


class Slow:
    """Examples that take 20 ms, and how many were read at most while none was used."""

    def __init__(self):
        self.read, self.lock = 0, threading.Lock()

    def __len__(self):
        return 64

    def __getitem__(self, row):
        time.sleep(0.02)
        with self.lock:
            self.read += 1
        return {"image": np.zeros((16, 16, 3), np.uint8)}


def test_reading_ahead_is_bounded(monkeypatch):
    monkeypatch.setattr(prefetch, "_NUM_AHEAD", 3)
    source = Slow()
    reader = ExampleReader(
        source=source, sampler=make_sampler(source, 4, seed=0), size=16
    )
    with Prefetcher(reader, num_workers=4) as stream:
        next(stream)
        time.sleep(0.3)
        assert source.read == 4 * (1 + 3)


@pytest.mark.slow
def test_processes_read_what_threads_read(reader):
    words = train_tokenizer([f"picture {number}" for number in range(30)], 300)
    encode = functools.partial(words.encode, context=6, truncate=True)
    reader = dataclasses.replace(reader, encode=encode)
    threads = first(4, reader)
    for batch, other in zip(threads, first(4, reader, processes=True), strict=True):
        assert_equal(batch, other)


@pytest.mark.slow
def test_workers_outlive_the_signal_to_end_but_not_their_pool(reader):
    reader = dataclasses.replace(reader, encode=None)
    expected = first(12, reader)
    with Prefetcher(reader, num_workers=2, processes=True) as stream:
        assert_equal(next(stream), expected[0])
        workers = [*stream._pool._processes.values()]
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        # Far beyond what was read ahead.
        for batch, other in zip(stream, expected[1:], strict=False):
            assert_equal(batch, other)
        os.kill(workers[0].pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool, match=r"was killed, .* lower `workers`"):
            list(stream)
        closing = threading.Thread(target=stream.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
        assert not any(worker.is_alive() for worker in workers)


def test_a_reader_travels_to_another_process(reader):
    there = pickle.loads(pickle.dumps(reader))
    assert_equal(there.read(3, np.arange(6)), reader.read(3, np.arange(6)))


def test_a_stream_without_workers_is_refused(reader):
    with pytest.raises(ValueError, match="must be 1 or more"):
        Prefetcher(reader, num_workers=0)
