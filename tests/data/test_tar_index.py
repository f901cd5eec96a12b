import errno
import io
import os
from pathlib import Path
import tarfile

from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.tar_index import load_index, map_records, PARTS, scan


FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def contents(path, records):
    """What each record points at, by key and part."""
    data = path.read_bytes()
    return {
        record["key"].decode(): {
            part: data[record[part][0] : sum(record[part])]
            for part in PARTS
            if record[part][0]
        }
        for record in records
    }


@pytest.mark.parametrize("form", FORMS)
@given(lengths=st.lists(st.integers(0, 1500), min_size=1, max_size=5))
def test_every_member_is_where_the_index_says(
    tmp_path_factory, write_tar, form, lengths
):
    path = tmp_path_factory.mktemp("tar") / "0.tar"
    members = {}
    for row, length in enumerate(lengths):
        members[f"deep/folder/{row}.png"] = bytes([65 + row]) * length
        members[f"deep/folder/{row}.txt"] = b"text" * row
    write_tar(path, members, form)
    head, records = scan(path)
    assert (head.count, head.damage) == (len(lengths), "")
    assert contents(path, records) == {
        f"deep/folder/{row}": {
            "image": bytes([65 + row]) * length,
            "text": b"text" * row,
        }
        for row, length in enumerate(lengths)
    }


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (tarfile.USTAR_FORMAT, "d" * 120 + "/" + "n" * 80),
        (tarfile.GNU_FORMAT, "d" * 300 + "/" + "n" * 200),
        (tarfile.PAX_FORMAT, "d" * 300 + "/" + "n" * 200),
        (tarfile.PAX_FORMAT, "größe/寫真"),
    ],
)
def test_long_and_foreign_names_are_read(tmp_path, write_tar, form, name):
    members = {"a.jpg": b"first", f"{name}.jpg": b"long", "b.jpg": b"last"}
    path = write_tar(tmp_path / "0.tar", members, form)
    _, records = scan(path)
    assert contents(path, records) == {
        "a": {"image": b"first"}, name: {"image": b"long"}, "b": {"image": b"last"}
    }  # fmt: skip


def test_sizes_in_base_256_and_in_pax_records_are_read(tmp_path, write_tar):
    path = write_tar(tmp_path / "0.tar", {"a.jpg": b"12345", "b.jpg": b"678"})
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    assert contents(path, scan(path)[1])["b"] == {"image": b"678"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 3, {"size": "3", "comment": "none"}
        tar.addfile(info, io.BytesIO(b"123"))
    assert contents(path, scan(path)[1]) == {"a": {"image": b"123"}}


def test_parts_of_an_example_share_the_name_up_to_the_first_dot(tmp_path, write_tar):
    members = {
        "1.jpg": b"one", "2.JPEG": b"two", "2.png": b"two again", "3.txt": b"alone",
        "4.seg.png": b"mask", "._1.jpg": b"hidden", "2.txt": b"late", "1.cls": b"3",
        "1.json": b"{}", "n.npy": b"array",
    }  # fmt: skip
    path = write_tar(tmp_path / "0.tar", members)
    head, records = scan(path)
    assert contents(path, records) == {
        "1": {"image": b"one", "class": b"3", "json": b"{}"},
        "2": {"image": b"two", "text": b"late"},
    }
    assert (head.ignored, head.imageless) == (4, 1)


def test_joined_tars_lose_nothing(tmp_path, write_tar, captioned):
    parts = [write_tar(tmp_path / f"{n}.tar", captioned(0, 3)) for n in (1, 2)]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    head, records = scan(joined)
    assert (head.count, head.damage) == (6, "")
    assert [key.decode() for key in records["key"]] == [
        f"{n:06d}" for n in (0, 1, 2)
    ] * 2
    assert (records["image"][:, 0] != 0).all()
    assert len(np.unique(records["image"][:, 0])) == 6


@given(cut=st.integers(0, 2**31))
def test_a_tar_that_is_cut_anywhere_keeps_its_whole_members(
    tmp_path_factory, write_tar, captioned, cut
):
    path = tmp_path_factory.mktemp("cut") / "0.tar"
    write_tar(path, captioned(0, 4))
    data, (_, whole) = path.read_bytes(), scan(path)
    ends = {r["key"]: max(sum(r[part]) for part in PARTS) for r in whole}
    last = max(ends.values())
    cut %= last
    path.write_bytes(data[:cut])
    head, records = scan(path)
    kept = contents(path, records)
    expected = contents(path, whole)
    for key, end in ends.items():
        if end <= cut:
            assert kept[key.decode()] == expected[key.decode()]
    assert head.damage or cut == 0
    # Nothing that is kept reaches behind the cut.
    for record in records:
        assert all(sum(record[part]) <= cut for part in PARTS)


def test_a_cut_caption_takes_its_image_along(tmp_path, write_tar, encoded):
    members = {
        "0.jpg": encoded(0),
        "0.txt": b"a",
        "1.jpg": encoded(1),
        "1.txt": b"b" * 600,
    }
    path = write_tar(tmp_path / "0.tar", members)
    start = path.read_bytes().index(b"b" * 600)
    path.write_bytes(path.read_bytes()[: start + 10])
    head, records = scan(path)
    assert records["key"].tolist() == [b"0"]
    assert head.lost_bytes == 10
    assert head.damage == "cut in the middle of 1.txt"


@pytest.mark.parametrize(
    "damage", [b"not a tar" * 200, b"\x1f\x8b" + bytes(range(256)) * 4, b"\xff" * 512]
)
def test_what_is_no_tar_has_no_members_and_says_so(tmp_path, damage):
    path = tmp_path / "0.tar"
    path.write_bytes(damage)
    head, records = scan(path)
    assert len(records) == head.count == 0
    assert head.damage == "no header of a member at byte 0"
    assert head.lost_bytes == len(damage)


def test_a_damaged_header_keeps_what_came_before(tmp_path, write_tar, captioned):
    path = write_tar(tmp_path / "0.tar", captioned(0, 3))
    data = bytearray(path.read_bytes())
    at = data.index(b"000001.json")
    data[at + 130] ^= 1
    path.write_bytes(data)
    head, records = scan(path)
    assert records["key"].tolist() == [b"000000", b"000001"]
    assert head.damage == f"no header of a member at byte {at}"


def test_an_index_is_made_once_and_again_when_the_tar_changes(
    tmp_path, write_tar, captioned
):
    tar, folder = write_tar(tmp_path / "0.tar", captioned(0, 3)), tmp_path / "index"
    head, path = load_index(tar, [folder])
    written = path.stat().st_mtime_ns
    assert load_index(tar, [folder]) == (head, path)
    assert path.stat().st_mtime_ns == written
    # As an index was written before.
    path.write_bytes(path.read_bytes().replace(b"{", b'{"lost": 0, ', 1))
    written = path.stat().st_mtime_ns
    assert load_index(tar, [folder]) == (head, path)
    assert path.stat().st_mtime_ns == written
    mapped = map_records(path)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, scan(tar)[1])

    write_tar(tar, captioned(5, 3))
    os.utime(tar, ns=(0, head.mtime_ns + 1))
    again, _ = load_index(tar, [folder])
    assert again.mtime_ns != head.mtime_ns
    assert map_records(path)["key"].tolist() == [b"000005", b"000006", b"000007"]

    path.write_bytes(path.read_bytes()[:-1])
    assert load_index(tar, [folder])[0] == again
    assert len(map_records(path)) == 3


def test_a_tar_that_is_gone_keeps_its_index(tmp_path, write_tar, captioned):
    tar = write_tar(tmp_path / "0.tar", captioned(0, 3))
    known = load_index(tar, [tmp_path])
    tar.unlink()
    assert load_index(tar, [tmp_path]) == known
    with pytest.raises(OSError, match=r"never.tar \(No such file .* leave it out"):
        load_index(tmp_path / "never.tar", [tmp_path])


@pytest.mark.parametrize("broken", ["open", "stat", "seek"])
def test_a_tar_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path, write_tar, captioned, monkeypatch, broken
):
    tar = write_tar(tmp_path / "0.tar", captioned(0, 3))

    def fail(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    where = {"open": (Path, "open"), "stat": (Path, "stat")}
    where["seek"] = ("vtp_eqx.data.tar_index._members",)
    with monkeypatch.context() as patch:
        patch.setattr(*where[broken], fail)
        with pytest.raises(OSError, match=r"0.tar \(Input/output error\): try again"):
            load_index(tar, [tmp_path / "index"])
    head, _ = load_index(tar, [tmp_path / "index"])
    assert head.count == 3


def test_an_index_goes_to_the_first_folder_that_takes_it(
    tmp_path, write_tar, captioned
):
    tar = write_tar(tmp_path / "0.tar", captioned(0, 3))
    (tmp_path / "full").write_text("no folder")
    _, path = load_index(tar, [tmp_path / "full", tmp_path / "free"])
    assert path.parent == tmp_path / "free"
    with pytest.raises(ValueError, match=r"nowhere to write it: .*full .*XDG_CACHE"):
        load_index(tar, [tmp_path / "full"])


def test_digests_follow_what_is_in_a_tar_and_not_when_it_was_copied(
    tmp_path, write_tar, captioned
):
    one = write_tar(tmp_path / "1.tar", captioned(0, 3))
    copy = tmp_path / "2.tar"
    copy.write_bytes(one.read_bytes())
    os.utime(copy, (1, 1))
    other = write_tar(tmp_path / "3.tar", captioned(1, 3))
    digests = [scan(path)[0].digest for path in (one, copy, other)]
    assert digests[0] == digests[1] != digests[2]


def changed_header(data, at, field, content):
    """The bytes of a tar with another field in one header, and a fitting checksum."""
    start, end = field
    data[at + start : at + end] = content
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def test_times_of_gnu_are_no_part_of_a_name(tmp_path, write_tar):
    # `tar --incremental` writes them where POSIX has the first part of a long name.
    path = write_tar(tmp_path / "0.tar", {"a.jpg": b"12345"}, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    path.write_bytes(changed_header(data, 0, (345, 357), b"14604012345\0"))
    assert contents(path, scan(path)[1]) == {"a": {"image": b"12345"}}


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ((124, 136), b"\xff" * 11 + b"\xfb"),  # a size of -5
        ((124, 136), b"12 and more\0"),
        ((136, 148), b"yesterday\0\0\0"),  # a time
    ],
)
def test_a_header_whose_numbers_are_none_is_damage(tmp_path, write_tar, field, content):
    path = write_tar(tmp_path / "0.tar", {"a.jpg": b"12345", "b.jpg": b"678"})
    path.write_bytes(changed_header(bytearray(path.read_bytes()), 1024, field, content))
    head, records = scan(path)
    assert records["key"].tolist() == [b"a"]
    assert head.damage == "no header of a member at byte 1024"


@pytest.mark.parametrize("form", FORMS)
def test_a_digest_is_the_same_in_every_version(tmp_path, write_tar, form):
    # A run that goes on knows its data by it.
    name = "d" * (80 if form == tarfile.USTAR_FORMAT else 200)
    members = {"a.jpg": b"12345", f"{name}/b.jpg": b"678"}
    head, _ = scan(write_tar(tmp_path / "0.tar", members, form))
    expected = ["95a76392409eb0a0", "f9a007e569955b03", "17d1c8484ea526e0"]
    assert head.digest == expected[FORMS.index(form)]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["img_1.png", "img_1.01.png", "img_1.02.png"],
         ["img_1", "img_1.01", "img_1.02"]),
        (["0.5.png", "0.5.txt", "1.5.png"], ["0.5", "1.5"]),
        (["a/v1.2-final.jpg", "./x/2020.03.04 10.22.jpg"],
         ["a/v1.2-final", "./x/2020.03.04 10.22"]),
        (["1.5.jpg", "1.5.mask.png", "1.5.json"], ["1.5"]),
        (["a..jpg", "b.1.JPEG"], ["a.", "b.1"]),
    ],
)  # fmt: skip
def test_a_key_may_have_dots_before_what_is_no_word(tmp_path, write_tar, names, keys):
    path = write_tar(tmp_path / "0.tar", {name: name.encode() for name in names})
    head, records = scan(path)
    assert [key.decode() for key in records["key"]] == keys
    assert head.ignored == sum("mask" in name for name in names)
    for key, parts in contents(path, records).items():
        for content in parts.values():
            assert content.decode().startswith(key)


def linked(path, links, form=tarfile.GNU_FORMAT):
    """A tar of a.jpg, b/c.png and some links (name, kind, target)."""
    with tarfile.open(path, "w", format=form) as tar:
        for name in ("a.jpg", "b/c.png"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return path


LONG = "d" * 150


@pytest.mark.parametrize("form", FORMS)
def test_links_stand_for_other_members(tmp_path, form):
    links = [
        ("hard.jpg", tarfile.LNKTYPE, "a.jpg"),
        ("again.jpg", tarfile.LNKTYPE, "./hard.jpg"),
        ("b/soft.png", tarfile.SYMTYPE, "c.png"),
        ("b/up.jpg", tarfile.SYMTYPE, "../a.jpg"),
        ("out.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("late.jpg", tarfile.LNKTYPE, "after.jpg"),
        ("after.jpg", tarfile.LNKTYPE, "b/c.png"),
    ]
    path = linked(tmp_path / "0.tar", links, form)
    head, records = scan(path)
    assert {key: parts["image"] for key, parts in contents(path, records).items()} == {
        "a": b"a.jpg", "b/c": b"b/c.png", "hard": b"a.jpg", "again": b"a.jpg",
        "b/soft": b"b/c.png", "b/up": b"a.jpg", "after": b"b/c.png",
        "late": b"b/c.png",
    }  # fmt: skip
    assert (head.ignored, head.imageless) == (1, 0)
    assert head.ignored_names == ("out.jpg -> /etc/passwd",)
    keys = [key.decode() for key in records["key"]]
    assert keys[-2:] == ["late", "after"]
    assert not head.damage


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_to_long_names_are_followed(tmp_path, form):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=form) as tar:
        info = tarfile.TarInfo(f"{LONG}/{LONG}.jpg")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"long"))
        info = tarfile.TarInfo("b.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, f"{LONG}/{LONG}.jpg"
        tar.addfile(info)
    assert contents(path, scan(path)[1])["b"] == {"image": b"long"}


def test_what_belongs_to_no_example_is_named_in_the_index(tmp_path, write_tar):
    members = {f"{n}.mask.png": b"" for n in range(9)} | {"a.jpg": b"", "t.txt": b""}
    members |= {"@eaDir/1.jpg": b"", "__MACOSX/a.jpg": b""}
    tar = write_tar(tmp_path / "0.tar", members)
    with tarfile.open(tar, "a") as more:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE  # which is nothing to miss
        more.addfile(folder)
    head, path = load_index(tar, [tmp_path])
    assert (head.count, head.ignored, head.imageless) == (1, 11, 1)
    assert head.ignored_names == tuple(f"{n}.mask.png" for n in range(5))
    assert head.imageless_names == ("t",)
    assert load_index(tar, [tmp_path]) == (head, path)
