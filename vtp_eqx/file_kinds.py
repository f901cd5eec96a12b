"""What a file holds, in words, whatever its name says: for errors that help.

And an .npz, opened with care.
"""

import codecs
from collections.abc import Iterator, Mapping
import contextlib
import lzma
import os
from pathlib import Path
import re
import struct
import sys
import tokenize
from typing import Any
import zipfile
import zlib

import numpy as np


# What NumPy raises that reads an .npz which is missing, cut short, or another's.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError,
    MemoryError, OverflowError, IndexError, SyntaxError, struct.error,
    tokenize.TokenError, lzma.LZMAError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# An array of more bytes, and so many times those it is packed in, would only fill the
# memory: ours, as images hardly compress.
_MUCH, _TIMES = 2**30, 100
_REASON = 200  # characters of a library's
_HEAD = 1024  # bytes that tell what a file is
_BEGINNINGS = (
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ\0", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstandard-compressed data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a single array (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS and not the file itself (git lfs pull)",
    ),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_BRANDS = {
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"mif1": "a HEIF image",
    b"avif": "an AVIF image",
}
_MARKUP = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
)


def describe_content(head: bytes) -> str:
    """What a file is that begins with `head` (1024 bytes are enough), in words."""
    head = head[:_HEAD]
    if not head:
        return "an empty file"
    for beginning, words in _BEGINNINGS:
        if head.startswith(beginning):
            return words
    if head[257:262] == b"ustar":
        return "a tar"
    if _PICKLE.match(head):
        return "a pickle of Python"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP image"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video")
    if not head.strip(b"\0"):
        return "nothing but zeros"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, words in _MARKUP:
        if text.lower().startswith(beginning):
            return words
    if b"/annex/objects/" in head:
        return "a pointer of git-annex and not the file itself (git annex get)"
    return _described_text(text) or "bytes of no known kind"


def describe_file(path: str | os.PathLike[str]) -> str:
    """The same of a file or folder; the system's reason where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return describe_content(file.read(_HEAD))
    except IsADirectoryError:
        return "a folder"
    except OSError as error:
        return describe_error(error)


def describe_error(error: OSError) -> str:
    """The system's reason, such as "Permission denied", without the file's name."""
    return error.strerror or str(error) or type(error).__name__


class UnreadableNpzError(ValueError):
    """An .npz that is missing, cut short or something else; `str` says which."""


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz by name, each read when it is asked for.

    Nothing is executed. `UnreadableNpzError` where the file cannot be opened, or an
    array not be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            # Opened here, because `np.load` leaves a damaged file open.
            file = stack.enter_context(Path(path).open("rb"))
            loaded: Any = np.load(file, allow_pickle=False)  # or a single array
            content = stack.enter_context(loaded)
            for member in content.zip.infolist():
                if member.file_size > max(_MUCH, _TIMES * member.compress_size):
                    raise ValueError(
                        f"{member.compress_size} bytes that would unpack to "
                        f"{member.file_size}"
                    )
            yield _Arrays(content)
    except NPZ_ERRORS as error:
        raise UnreadableNpzError(npz_fault(path, error)) from error


class _Arrays(Mapping):
    """Those of an .npz; NumPy gives the bytes of a member that is none."""

    def __init__(self, content: Any):
        self._content = content

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._content[name]
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{name!r} is no array")
        if found.dtype.kind == "U":  # of which no text can be made, not even to show it
            codes = np.frombuffer(
                found.astype(found.dtype.newbyteorder("=")), np.uint32
            )
            if (codes > sys.maxunicode).any():
                raise ValueError(f"{name!r} is no text")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def npz_fault(path: str | os.PathLike[str], error: BaseException) -> str:
    """Why NumPy could not read a file, in words; `error` is one of `NPZ_ERRORS`."""
    kind = describe_file(path)
    if isinstance(error, OSError) or kind != "a zip archive":
        return kind
    if "pickle" in str(error):  # NumPy's advice is to run whatever is in there
        return "arrays of Python objects, which are not read"
    reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
    return f"cut short or damaged: {reason}"


def _described_text(text: bytes) -> str:
    """The beginning of a text in UTF-8; "" for what is none."""
    line = text.partition(b"\n")[0][:40]
    try:
        # Incremental: the last character may have been cut in two.
        words = codecs.getincrementaldecoder("utf-8")().decode(line).strip()
    except UnicodeDecodeError:
        return ""
    return f"text that begins with {words!r}" if words.isprintable() and words else ""
