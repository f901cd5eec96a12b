from concurrent.futures import ThreadPoolExecutor
import errno
import gc
import json
import os
import pickle
import shutil

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.example_texts import clean_caption, MAX_CAPTION
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.skipped import skipped_of
from vtp_eqx.data.sources import open_source
from vtp_eqx.data.tars import TarSource


@pytest.fixture
def shards(tmp_path, write_tar, captioned):
    """A folder of three tars with 5, 3 and 4 examples."""
    for shard, (start, count) in enumerate([(0, 5), (5, 3), (8, 4)]):
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", captioned(start, count))
    return tmp_path / "shards"


def value_of(example):
    """The number that the color of an image tells, about."""
    return round(float(example["image"][..., 0].mean()))


def test_rows_run_through_one_tar_after_the_other(shards):
    source = TarSource(shards)
    assert len(source) == 12
    assert source.shard_sizes.tolist() == [5, 3, 4]
    for row in range(12):
        example = source[row]
        assert abs(value_of(example) - row) <= 2
        assert example["image"].shape == (24, 32, 3)
        assert (example["id"], example["caption"]) == (row, f"picture {row}")
        assert (example["label"], example["repair"]) == (row % 7, "")
    assert [source.name(row) for row in (4, 5)] == [
        "00000.tar/000004",
        "00001.tar/000005",
    ]
    for row in (-1, 12):
        with pytest.raises(IndexError):
            source[row]


def test_a_part_alone_is_read_alone(tmp_path, write_tar, encoded):
    # Behind 100 kB of something else the text is not worth reading the gap.
    members = {"1.jpg": encoded(1), "1.npy": bytes(100_000), "1.txt": b"far away"}
    members |= {"2.webp": encoded(2, "WEBP"), "3.png": encoded(3, "PNG")}
    source = TarSource(write_tar(tmp_path / "0.tar", members))
    assert source[0]["caption"] == "far away"
    assert value_of(source[2]) == 3
    assert source[1].keys() == {"id", "image", "repair"}
    assert source.encoded(2)["image"] == members["3.png"]


@pytest.mark.parametrize(
    ("parts", "caption", "label", "repair"),
    [
        ({"txt": b" a cat \n", "json": b'{"caption": "no"}'}, "a cat", None, ""),
        ({"json": b'{"caption": "a dog", "label": 4}'}, "a dog", 4, ""),
        ({"json": b'{"label": 4}', "cls": b"7\n"}, None, 7, ""),
        ({"json": b'{"label": true, "caption": 3}'}, None, None, ""),
        ({"cls": b"cat"}, None, None, ""),
        ({"cls": b"9" * 40}, None, None, ""),
        ({"txt": b""}, "", None, ""),
        ({"json": b"[1]"}, None, None, "JSON"),
        ({"json": b"{torn", "txt": b"kept"}, "kept", None, "JSON"),
        ({"json": b"[" * 100_000}, None, None, "JSON"),
        ({"txt": b"caf\xe9"}, "caf\ufffd", None, "not UTF-8"),
        (
            {"json": b'{"caption": "half \\ud83d"}'},
            "half \ufffd\ufffd\ufffd",
            None,
            "not",
        ),
        ({"txt": b"long " * 20_000}, ("long " * 900)[:4096], None, "cut at 4096"),
    ],
)
def test_captions_and_labels_come_from_what_is_there(
    tmp_path, write_tar, encoded, parts, caption, label, repair
):
    members = {
        "1.jpg": encoded(1),
        **{f"1.{kind}": text for kind, text in parts.items()},
    }
    example = TarSource(write_tar(tmp_path / "0.tar", members))[0]
    assert example.get("caption") == caption
    assert example.get("label") == label
    assert repair in example["repair"]
    assert bool(repair) == bool(example["repair"])
    if caption:
        caption.encode()  # no half characters are left


@given(st.text(max_size=80))
def test_a_caption_that_is_text_is_kept(text):
    assert clean_caption(text.encode("utf-8", "replace")) == (
        text.encode("utf-8", "replace").decode().strip(),
        "",
    )


@given(st.binary(max_size=80), st.integers(0, 3))
def test_any_bytes_give_a_caption_that_can_be_written(content, long):
    text, repair = clean_caption(content * 300**long)
    assert len(text.encode()) <= 4 * MAX_CAPTION
    assert text == "" or repair or content.decode().strip()


def test_bad_members_are_unreadable_by_name(tmp_path, write_tar, encoded):
    members = {
        "a.jpg": encoded()[:150],
        "b.jpg": b"",
        "c.png": b"none",
        "d.jpg": encoded(),
    }
    source = TarSource(write_tar(tmp_path / "0.tar", members))
    for row, name in enumerate(["0.tar/a", "0.tar/b", "0.tar/c"]):
        with pytest.raises(UnreadableImageError) as caught:
            source[row]
        assert caught.value.name == name
    assert source[3]["image"].shape == (24, 32, 3)


def test_a_tar_that_vanishes_or_changes_takes_its_own_rows_alone(shards, captioned):
    source = TarSource(shards)
    source[0]  # opens the first tar, which stays open
    for shard in (0, 1):
        (shards / f"{shard:05d}.tar").unlink()
    content = bytearray((shards / "00002.tar").read_bytes())
    (shards / "00002.tar").write_bytes(content + bytes(512))
    assert value_of(source[3]) in range(2, 6)
    for row, reason in ((5, "No such file"), (8, "written again")):
        with pytest.raises(UnreadableImageError, match=reason):
            source[row]
    # Where the tars are named one by one, rows keep their places in a later run.
    again = TarSource(shards / "{00000..00002}.tar")
    assert again.shard_sizes.tolist() == [5, 3, 4]
    assert again[9]["caption"] == "picture 9"
    with pytest.raises(UnreadableImageError, match=r"00001.tar/000006 \(No such file"):
        again[6]


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that are made, none of which takes time."""
    made = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_a_descriptor_that_went_stale_is_opened_anew(shards, monkeypatch, pauses):
    source = TarSource(shards)
    source[0]
    stale, read = set(map(int, os.listdir("/proc/self/fd"))), os.pread

    def pread(file, size, start):
        if file in stale and not pauses:  # a new one may get the same number
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(file, size, start)

    monkeypatch.setattr("os.pread", pread)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda row: source[row]["caption"], range(12))]
    assert found == [f"picture {row}" for row in range(12)]
    assert pauses


def test_a_tar_that_cannot_be_read_is_waited_for_once_and_again_when_it_was_read(
    shards, monkeypatch, pauses
):
    source = TarSource(shards)

    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        for row in range(5):
            with pytest.raises(UnreadableImageError, match="Input/output error"):
                source[row]
        assert len(pauses) == 3
    assert source[4]["caption"] == "picture 4"
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(UnreadableImageError):
            source[0]
    assert len(pauses) == 6


def test_nobody_waits_for_a_tar_that_is_gone(shards, pauses):
    source = TarSource(shards)
    (shards / "00001.tar").unlink()
    os.utime(shards / "00002.tar", (1, 1))
    for row in (5, 8):
        with pytest.raises(UnreadableImageError):
            source[row]
    assert not pauses


def test_a_tar_cut_in_a_member_gives_the_whole_ones_and_counts_the_rest(shards):
    path = shards / "00001.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"000006.jpg") + 700])
    source = TarSource(shards)
    assert source.shard_sizes.tolist() == [5, 1, 4]
    assert [str(skipped) for skipped in skipped_of(source)] == [
        "1 tars are damaged: 00001.tar (cut in the middle of 000006.jpg; 188 bytes "
        "lost)"
    ]
    assert source[6]["caption"] == "picture 8"


def test_another_tar_makes_one_index_more(shards, write_tar, captioned):
    TarSource(shards)
    before = {path: path.stat().st_mtime_ns for path in (shards / ".index").iterdir()}
    assert len(before) == 3
    write_tar(shards / "00003.tar", captioned(20, 2))
    assert len(TarSource(shards)) == 14
    after = {path: path.stat().st_mtime_ns for path in (shards / ".index").iterdir()}
    assert len(after) == 4
    assert before.items() < after.items()


def test_progress_tells_how_many_tars_are_known(shards):
    told = []
    TarSource(shards, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_indexes_go_where_they_can(shards, tmp_path, monkeypatch):
    fingerprint = TarSource(shards).fingerprint
    assert len(list((shards / ".index").iterdir())) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    shutil.rmtree(shards / ".index")
    (shards / ".index").write_text("in the way, as a read-only folder is")
    assert TarSource(shards).fingerprint == fingerprint
    assert len(list((tmp_path / "home").rglob("*.index"))) == 3


def test_the_fingerprint_is_of_what_the_tars_hold(shards, write_tar, captioned):
    prints = [TarSource(shards).fingerprint]
    os.utime(shards / "00001.tar", (1, 1))
    prints.append(TarSource(shards).fingerprint)
    write_tar(shards / "00001.tar", captioned(50, 3))
    prints.append(TarSource(shards).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_many_threads_read_what_one_reads_and_few_tars_stay_open(
    tmp_path, write_tar, captioned
):
    for shard in range(80):
        write_tar(tmp_path / f"{shard:05d}.tar", captioned(shard, 1))
    source = TarSource(tmp_path)
    gc.collect()  # what other tests left behind may close files at any time
    before = len(os.listdir("/proc/self/fd"))
    rows = np.random.default_rng(0).integers(0, 80, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.__getitem__, rows))
    assert [one["caption"] for one in read] == [f"picture {row}" for row in rows]
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * 64
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_source_travels_to_another_process(shards):
    source = TarSource(shards)
    source[0]
    there = pickle.loads(pickle.dumps(source))
    assert there[7]["caption"] == "picture 7"
    assert there.fingerprint == source.fingerprint


@pytest.mark.parametrize("path", ["", "00001.tar", "{00000..00001}.tar", "*.tar"])
def test_paths_of_tars_open_as_tars(shards, path):
    source = open_source(shards / path)
    assert isinstance(source, TarSource)
    assert "caption" in source[0]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["s0.input.jpg", "s0.edited.jpg"],
         r"2 members .*0.tar/s0.input.jpg, 0.tar/s0.edited.jpg: rename .* one suffix"),
        (["n01.tar", "n02.tar"], r"0.tar/n01.tar, .*unpack these tars of tars"),
        (["a.npy"], r"0.tar/a.npy: rename"),
        (["a.txt"], r"found none in 1 tars .*0.tar; 1 captions .*: check"),
    ],
)  # fmt: skip
def test_tars_without_images_say_what_they_hold(tmp_path, write_tar, members, words):
    write_tar(tmp_path / "0.tar", dict.fromkeys(members, b"x"))
    with pytest.raises(ValueError, match=words):
        TarSource(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>none</html>", "an HTML page"),
        (b"\x1f\x8b" + bytes(600), "gzip-compressed data"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_what_only_ends_in_tar_is_said_to_be_what_it_is(shards, content, kind):
    path = shards / "00001.tar"
    path.write_bytes(content)
    words = rf"at byte 0; .* lost; it is {kind}.*: unpack it, or copy"
    with pytest.raises(ValueError, match=words):
        TarSource(path)
    (damaged,) = skipped_of(TarSource(shards))
    assert f"bytes lost; it is {kind}" in str(damaged)


def test_members_of_no_example_are_counted_over_all_tars(tmp_path, write_tar, encoded):
    for name in "ab":
        members = {"1.jpg": encoded(), "1.npy": b"", "2.txt": b""}
        write_tar(tmp_path / f"{name}.tar", members)
    members, keys = skipped_of(TarSource(tmp_path))
    assert (members.count, members.names) == (2, ["a.tar/1.npy", "b.tar/1.npy"])
    assert (keys.count, keys.names) == (2, ["a.tar/2", "b.tar/2"])


def test_notes_of_macos_about_tars_are_no_tars(shards):
    (shards / "._00000.tar").write_bytes(b"note")
    assert len(TarSource(shards).paths) == 3
    (shards / "sub").mkdir()
    (shards / "sub" / "._a.tar").write_bytes(b"note")
    with pytest.raises(ValueError, match="found none"):
        open_source(shards / "sub")


def test_a_folder_of_tars_and_images_is_a_question(shards, encoded):
    (shards / "val").mkdir()
    for name in ("0.jpg", "1.jpg"):
        (shards / "val" / name).write_bytes(encoded())
    both = r"3 tars \(such as 00000.tar\) or 2 image files .*0.jpg.*'.*/\*.tar'"
    with pytest.raises(ValueError, match=both):
        open_source(shards)
    assert len(open_source(f"{shards}/*.tar")) == 12
    assert len(open_source(shards / "val")) == 2


def test_tars_are_read_by_a_user_without_a_home(shards, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert len(TarSource(shards)) == 12
    shutil.rmtree(shards / ".index")
    (shards / ".index").write_text("in the way, as a read-only folder is")
    with pytest.raises(ValueError, match="nowhere to write it"):
        TarSource(shards)


def test_an_index_whose_records_are_damaged_is_named(shards):
    TarSource(shards)
    path = shards / ".index" / "00000.tar.index"
    content = path.read_bytes()
    line = content.index(b"\n") + 1
    for damage in (b"\0", b"\xff", b"\x7f"):  # no image; places outside of the tar
        path.write_bytes(content[:line] + damage * (len(content) - line))
        with pytest.raises(UnreadableImageError, match="its index is damaged: remove"):
            TarSource(shards)[0]
    path.unlink()
    assert abs(value_of(TarSource(shards)[1]) - 1) <= 2


def test_the_record_of_a_downloader_is_understood(tmp_path, write_tar, encoded):
    record = {"url": "x", "caption": "a hill", "status": "success", "width": 32}
    members = {
        "000010001.jpg": encoded(1), "000010001.json": json.dumps(record).encode(),
        "000010001.txt": b"a hill",
    }  # fmt: skip
    example = TarSource(write_tar(tmp_path / "00001.tar", members))[0]
    assert example["caption"] == "a hill"
    assert "label" not in example


def test_an_image_above_the_limit_of_bytes_is_refused_with_it(shards, monkeypatch):
    monkeypatch.setattr("vtp_eqx.data.tars._MAX_IMAGE", 10)
    with pytest.raises(UnreadableImageError, match="bytes, and the limit is 10"):
        TarSource(shards)[0]
