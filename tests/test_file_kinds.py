import io
import lzma
import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest

from benchmarks.fuzz_mutations import zip_bomb
from vtp_eqx.file_kinds import (
    describe_content,
    describe_file,
    open_npz,
    UnreadableNpzError,
)


def a_tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (("a" + 30 * "é").encode(), "text that begins with 'aé"),
        (b"\n  <HTML><head>", "an HTML page"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error>', "an XML document"),
        (b"\x28\xb5\x2f\xfd\0", "zstandard-compressed data"),
        (b"PK\x03\x04\0", "a zip archive"),
        (pickle.dumps([1]), "a pickle of Python"),
        (a_tar(), "a tar"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WebP image"),
        (b"\0\0\0\x1cftypavif", "an AVIF image"),
        (b"\0\0\0\x1cftypisom", "a video"),
        (b"../.git/annex/objects/x/y", "a pointer of git-annex"),
        (b'{"message": "not found"}\nmore', """text that begins with '{"message": """),
        (bytes([200, 201, 202, 203]), "bytes of no known kind"),
    ],
)
def test_contents_are_described_in_words(content, words):
    assert describe_content(content).startswith(words)


def test_places_that_are_no_files_are_described(tmp_path):
    assert describe_file(tmp_path) == "a folder"
    assert describe_file(tmp_path / "none") == "No such file or directory"


def whole():
    content = io.BytesIO()
    np.savez(content, arr_0=np.arange(100, dtype=np.uint8))
    return content.getvalue()


def objects():
    content = io.BytesIO()
    np.savez(content, arr_0=np.array([{}, "a"], object))
    return content.getvalue()


def array():
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


def with_header(text):
    """An array whose header is that text."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        size = len(text).to_bytes(2, "little")
        archive.writestr("arr_0.npy", b"\x93NUMPY\1\0" + size + text)
    return content.getvalue()


def no_text():
    content = io.BytesIO()
    np.savez(content, arr_0=np.array("abc"))
    with zipfile.ZipFile(content) as archive:
        member = archive.read("arr_0.npy")
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        archive.writestr("arr_0.npy", member[:-4] + b"\xff\xff\xff\x7f")
    return changed.getvalue()


def badly_compressed():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("arr_0.npy", bytes(1000))
    packed = bytearray(content.getvalue())
    packed[30 + len("arr_0.npy") + 9 + 6] ^= 0xFF
    with pytest.raises(lzma.LZMAError):
        zipfile.ZipFile(io.BytesIO(packed)).read("arr_0.npy")
    return bytes(packed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (badly_compressed(), "cut short or damaged: "),
        (no_text(), "cut short or damaged: 'arr_0' is no text"),
        (with_header(b"{'descr': '''"), "cut short or damaged: "),
        (with_header(b"(" * 900), "cut short or damaged: "),
        (whole()[:150], "cut short or damaged: "),
        (whole().replace(b"\x14\x00", b"\xff\x00"), "cut short or damaged: "),
        (objects(), "arrays of Python objects, which are not read"),
        (b"<html>not found</html>", "an HTML page"),
        (array(), "a single array (.npy)"),
        (pickle.dumps({"arr_0": 1}), "a pickle of Python"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"", "an empty file"),
        (b"\x93NUMPY\x01\0", "a single array (.npy)"),
    ],
)
def test_what_is_no_npz_is_said_without_advice_to_run_it(tmp_path, content, words):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(UnreadableNpzError) as caught, open_npz(path) as arrays:
        dict(arrays)
    fault = str(caught.value)
    assert fault.startswith(words)
    assert "allow_pickle" not in fault
    assert "unsafely" not in fault


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / "images.npz"
    path.write_bytes(zip_bomb("arr_0.npy", random.Random(0)))
    with pytest.raises(ValueError, match=r"\d{7} bytes that would unpack to 3221"):
        open_npz(path).__enter__()
