"""WebDataset tars as a random-access source, as DataComp and img2dataset write them.

An example is `KEY.jpg` (`.jpeg`, `.png`, `.webp`, ...) with `KEY.txt` or `KEY.json`
(`caption`, and `label` if there), and `KEY.cls` for a label alone.

Captions: what is not UTF-8 is replaced by U+FFFD, and what is longer than
`MAX_CAPTION` characters is cut; `repair` says so. An empty caption is given as it is,
a missing one is not there: whether that example is of use is up to the reader.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import functools
import glob
import hashlib
import itertools
import json
import os
from pathlib import Path
import re
import time
from typing import Any

import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.tar_index import load_index, map_records, PARTS, TarHead


MAX_CAPTION = 4096  # characters; ours: a context of 77 tokens never reads so far
_MAX_BYTES = {"image": 2**28, "text": 4 * MAX_CAPTION, "json": 2**24, "class": 64}
_OPEN_TARS = 64  # at once in a process: far below what systems allow
_NUM_SCANNERS = 16  # threads; ours
_PAUSES = (0.1, 0.4, 1.5)  # ours, in seconds, before a tar that failed is tried again
_NEAR = 2**16  # bytes between parts that are rather read than asked for apart
_BRACES = re.compile(r"\{([^{}]*)\}")


class TarSource:
    """The examples of one tar after the other, in the order of their names.

    `source[row]` has `image` (uint8, of the file's own size), `id`, `repair` ("" where
    all is well) and, where the tar has them, `caption` and `label`; in
    `source.encoded(row)` the image is the bytes of its file. Both raise
    `images.UnreadableImageError` by name where the image is damaged, or the tar is gone
    or was written again.

    Offsets come from an index for each tar, kept in `.index` beside it (or in the
    user's cache where that folder is read-only), made by reading headers alone, and
    made anew when size or time of the tar change. It stays on disk: memory grows with
    the number of tars and not of examples. Reading is thread-safe, at most 64 tars are
    open at once, and a source can be pickled for worker processes.
    """

    def __init__(
        self,
        tars: str | Path | Sequence[str | Path],
        *,
        cache: Path | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        """`tars` is a folder, a tar, a pattern such as `{00000..00099}.tar`, or a list.

        A tar that a pattern of braces names and that is gone keeps its rows and their
        places while its index is there, and raises `OSError` without. `cache` is where
        indexes are kept instead of beside the tars. `progress(done, total)` is called
        when the index of a tar is there: to make it takes a while for a new set.
        """
        self.paths = expand(tars)
        load = lambda tar: load_index(tar, _index_folders(tar, cache))
        # In random order, so that processes that open a new set at once share the work.
        order = np.random.default_rng().permutation(len(self.paths)).tolist()
        by_place = {}
        with ThreadPoolExecutor(_NUM_SCANNERS) as pool:
            found = pool.map(load, [self.paths[place] for place in order])
            for place, index in zip(order, found, strict=True):
                by_place[place] = index
                progress(len(by_place), len(order))
        known = [by_place[place] for place in range(len(self.paths))]
        self._heads = [head for head, _ in known]
        self._indexes = [path for _, path in known]
        root = os.path.commonpath([path.parent.absolute() for path in self.paths])
        self._tar_names = [os.path.relpath(path, root) for path in self.paths]
        self.shard_sizes = np.array([head.count for head in self._heads])
        self._ends = np.cumsum(self.shard_sizes)
        require(
            len(self) > 0,
            "Tars hold images by name (KEY.jpg, KEY.txt); found none in "
            f"{len(self.paths)} tars such as {self.paths[0]} "
            f"({self._heads[0].damage or 'whole'}): check the path.",
        )
        self._open_caches()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = self.encoded(row)
        return {**example, "image": decode_image(example["image"], self.name(row))}

    def encoded(self, row: int) -> dict[str, Any]:
        """The same, with `image` as the bytes of its file."""
        shard, place = self._shard_of(row)
        try:
            contents = self._read(shard, self._records(shard)[place])
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnreadableImageError(self.name(row), reason) from error
        return {"id": row, "image": contents["image"], **_texts(contents)}

    @property
    def names(self) -> "Names":
        """`TAR/KEY` of each row; looked up when asked for."""
        return Names(self)

    def name(self, row: int) -> str:
        """Which example `row` is: `TAR/KEY`."""
        shard, place = self._shard_of(row)
        key = bytes(self._records(shard)[place]["key"]).decode("utf-8", "replace")
        return f"{self._tar_names[shard]}/{key}"

    @property
    def damaged(self) -> dict[str, str]:
        """What is wrong with the tars that are not whole, by name."""
        return {
            name: f"{head.damage}; {head.lost_bytes} bytes lost"
            for name, head in zip(self._tar_names, self._heads, strict=True)
            if head.damage
        }

    @property
    def losses(self) -> str:
        """What is missing of the tars, in a line; "" where they are whole."""
        if not self.damaged:
            return ""
        lost_bytes = sum(head.lost_bytes for head in self._heads)
        name, damage = next(iter(self.damaged.items()))
        return (
            f"{len(self.damaged)} of {len(self.paths)} tars are damaged: "
            f"{self.num_lost} examples are cut and {lost_bytes} bytes not understood; "
            f"the first is {name} ({damage})."
        )

    @property
    def num_lost(self) -> int:
        """How many examples are known to be cut; more may have lain behind them."""
        return sum(head.lost for head in self._heads)

    @property
    def fingerprint(self) -> str:
        """Changes whenever a tar comes, goes or is written anew; not with copying."""
        digest = hashlib.sha256()
        for name, head in zip(self._tar_names, self._heads, strict=True):
            digest.update(f"{name} {head.count} {head.digest}\n".encode())
        return digest.hexdigest()[:12]

    def _shard_of(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"The source has {len(self)} rows; got {row}.")
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return shard, int(row - self._ends[shard] + self.shard_sizes[shard])

    def _read(self, shard: int, record: Any) -> dict[str, bytes]:
        """The contents of the parts that a record has, at most so much of each."""
        parts = {part: record[part].tolist() for part in PARTS if record[part][0]}
        parts = {
            part: (start, min(size, _MAX_BYTES[part]))
            for part, (start, size) in parts.items()
        }
        begin = min(start for start, _ in parts.values())
        end = max(start + size for start, size in parts.values())
        tar = self._tar(shard)
        if end - begin > sum(size for _, size in parts.values()) + _NEAR:
            return {part: tar.read(*place) for part, place in parts.items()}
        span = tar.read(begin, end - begin)
        return {
            part: span[start - begin : start - begin + size]
            for part, (start, size) in parts.items()
        }

    def _open_caches(self) -> None:
        # Closed over without `self`: a circle would keep files open after their source.
        paths, heads, indexes = self.paths, self._heads, self._indexes

        @functools.lru_cache(_OPEN_TARS)
        def tar(shard: int) -> _OpenTar:
            return _OpenTar(paths[shard], heads[shard])

        @functools.lru_cache(_OPEN_TARS)
        def records(shard: int) -> np.ndarray:
            return map_records(indexes[shard])

        # What one of these drops is closed by its last reader.
        self._tar, self._records = tar, records

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_tar", "_records")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_caches()


class Names(Sequence):
    """The names of all rows, none of which is in memory."""

    def __init__(self, source: TarSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return self._source.name(row)


class _OpenTar:
    """A tar that is read at any place by any thread, and closes with its last user.

    What fails is tried again with a new descriptor: that of a network file system may
    be stale for ever. After a tar has failed to the end nobody waits for it again
    until it has been read.
    """

    def __init__(self, path: Path, head: TarHead):
        self._path, self._head = path, head
        self._file: _Descriptor | None = None
        self._pauses = _PAUSES

    def read(self, start: int, size: int) -> bytes:
        for pause in self._pauses:
            try:
                return self._read(start, size)
            except (FileNotFoundError, _TarChangedError):
                raise  # for good
            except OSError:
                time.sleep(pause)
        self._pauses = ()
        content = self._read(start, size)
        self._pauses = _PAUSES
        return content

    def _read(self, start: int, size: int) -> bytes:
        file = self._file
        if file is None:
            file = self._file = _Descriptor(self._path, self._head)
        try:
            content = os.pread(file.number, size, start)
            if len(content) < size:
                raise OSError("the tar ends early")
        except OSError:
            self._file = None  # other readers keep theirs until they are done
            raise
        return content


class _Descriptor:
    """An open file that is the tar of an index, and closes with its last user."""

    def __init__(self, path: Path, head: TarHead):
        self.number = os.open(path, os.O_RDONLY)
        status = os.fstat(self.number)
        if (status.st_size, status.st_mtime_ns) != (head.size, head.mtime_ns):
            raise _TarChangedError("the tar was written again after it was indexed")

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


class _TarChangedError(OSError):
    """Another tar than the one of the index."""


def expand(tars: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The paths of the tars that are meant, in their order and at least one.

    A folder means the `.tar` files in it by name. In a pattern, `{00..19}` means each
    number and `{a,b}` each word, whether the file is there or not; `*`, `?` and `[...]`
    mean the files that are there.
    """
    if not isinstance(tars, str | Path):
        return tuple(path for one in tars for path in expand(one))
    path = Path(tars)
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
    elif path.exists() or not _is_pattern(path):
        found = [path] if path.exists() else []
    else:
        found = []
        for word in _braced(str(path)):
            found += sorted(glob.glob(word)) if glob.has_magic(word) else [word]
    require(
        bool(found),
        f"Tars are named by a folder, a file or a pattern; found none for {tars}: "
        "check the path.",
    )
    return tuple(map(Path, found))


def has_tars(path: Path) -> bool:
    """Whether `path` is a tar, a folder with some in it, or a pattern of tars."""
    return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def _is_pattern(path: Path) -> bool:
    return bool(_BRACES.search(str(path))) or glob.has_magic(str(path))


def _braced(pattern: str) -> Iterator[str]:
    """All the words that the braces of a pattern stand for, the last brace fastest."""
    pieces = _BRACES.split(pattern)
    choices = [
        _choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)
    ]
    return map("".join, itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if not dots:
        return inside.split(",")
    require(
        first.isdecimal() and last.isdecimal() and int(first) <= int(last),
        "Braces hold a range of numbers or words with commas; got "
        f"{{{inside}}}: write it as in {{00000..00099}}.",
    )
    width = len(first) if len(first) == len(last) else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def _index_folders(tar: Path, cache: Path | None) -> list[Path]:
    """Where the index of a tar may be kept, the best place first."""
    folder = hashlib.sha256(str(tar.parent.absolute()).encode()).hexdigest()[:12]
    if cache is not None:
        return [cache / folder]
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return [tar.parent / ".index", home / "vtp_eqx" / "tars" / folder]


def _texts(contents: dict[str, bytes]) -> dict[str, Any]:
    """Caption and label where there are any, and what had to be done to them."""
    found: dict[str, Any] = {"repair": ""}
    fields = {}
    if "json" in contents:
        try:
            fields = json.loads(contents["json"])
            require(isinstance(fields, dict), "not a record")
        except (ValueError, RecursionError):
            fields, found["repair"] = {}, "the JSON cannot be read"
    caption = contents.get("text")
    if caption is None and isinstance(fields.get("caption"), str):
        # Halves of characters that JSON can hold are found below, as bytes.
        caption = fields["caption"].encode("utf-8", "surrogatepass")
    if caption is not None:
        found["caption"], repair = clean_caption(caption)
        found["repair"] = repair or found["repair"]
    label = fields.get("label")
    if "class" in contents:
        text = contents["class"].strip()
        label = int(text) if text.isdigit() else None
    if type(label) is int and 0 <= label < 2**31:
        found["label"] = label
    return found


def clean_caption(content: bytes) -> tuple[str, str]:
    """The text that bytes say, and what had to be done to it ("" for nothing)."""
    text = content[: _MAX_BYTES["text"]].decode("utf-8", "replace")[:MAX_CAPTION]
    kept = text.encode()
    if not content.startswith(kept):
        return text.strip(), "the caption is not UTF-8; what is not was replaced"
    if len(kept) < len(content) or len(kept) == _MAX_BYTES["text"]:
        return text.strip(), f"the caption was cut at {MAX_CAPTION} characters"
    return text.strip(), ""
