"""WebDataset tars as a random-access source, as DataComp and img2dataset write them.

An example is `KEY.jpg` (`.jpeg`, `.png`, `.webp`, ...) with `KEY.txt` or `KEY.json`
(`caption`, and `label` if there), and `KEY.cls` for a label alone; see
`vtp_eqx.data.example_texts`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import hashlib
import os
from pathlib import Path
import random
import time
from typing import Any

import numpy as np

from vtp_eqx.data.example_texts import MAX_TEXT_BYTES, read_texts
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.skipped import Skipped, skipped_of
from vtp_eqx.data.tar_index import load_index, map_records, PARTS, TarHead
from vtp_eqx.data.tar_paths import expand
from vtp_eqx.file_kinds import describe_error, describe_file
from vtp_eqx.files import cache_folder


_MAX_IMAGE = 2**28  # bytes; ours
_OPEN_TARS = 64  # at once in a process: far below what systems allow
_NUM_SCANNERS = 16  # threads; ours
_PAUSES = (0.1, 0.4, 1.5)  # ours, in seconds, before a tar that failed is tried again
_NEAR = 2**16  # bytes between parts that are rather read than asked for apart


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
        tars: str | Path,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        """`tars` is a folder, a tar, or a pattern such as `{00000..00099}.tar`.

        A tar that a pattern of braces names and that is gone keeps its rows and their
        places while its index is there, and raises `OSError` without.
        `progress(done, total)` is called when the index of a tar is there: to make it
        takes a while for a new set.
        """
        self.paths = expand(tars)
        load = lambda tar: load_index(tar, _index_folders(tar))
        # In random order, so that processes that open a new set at once share the work.
        shuffled = random.Random().sample(self.paths, len(self.paths))
        known: dict[Path, tuple[TarHead, Path]] = {}
        with ThreadPoolExecutor(_NUM_SCANNERS) as pool:
            for path, index in zip(shuffled, pool.map(load, shuffled), strict=True):
                known[path] = index
                progress(len(known), len(shuffled))
        self._heads = [known[path][0] for path in self.paths]
        self._indexes = [known[path][1] for path in self.paths]
        root = os.path.commonpath([path.parent.absolute() for path in self.paths])
        self._tar_names = [os.path.relpath(path, root) for path in self.paths]
        self.shard_sizes = np.array([head.count for head in self._heads])
        self._ends = np.cumsum(self.shard_sizes)
        if not len(self):
            raise ValueError(self._nothing())
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
            reason = describe_error(error)
            raise UnreadableImageError(self.name(row), reason) from error
        return {"id": row, "image": contents["image"], **read_texts(contents)}

    def name(self, row: int) -> str:
        """`TAR/KEY` of `row`."""
        shard, place = self._shard_of(row)
        key = bytes(self._records(shard)[place]["key"]).decode("utf-8", "replace")
        return f"{self._tar_names[shard]}/{key}"

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The tars that are not whole, and members that belong to no example."""
        damaged, members, keys = [], [], []
        for name, path, head in zip(
            self._tar_names, self.paths, self._heads, strict=True
        ):
            if head.damage:
                lost = f"{head.lost_bytes} bytes lost{_kind(path, head)}"
                damaged.append(f"{name} ({head.damage}; {lost})")
            members += [f"{name}/{member}" for member in head.ignored_names]
            keys += [f"{name}/{key}" for key in head.imageless_names]
        return (
            Skipped("tars are damaged", len(damaged), damaged),
            Skipped(
                "members of tars are no image, caption or label of an example",
                sum(head.ignored for head in self._heads),
                members,
            ),
            Skipped(
                "captions in tars have no image",
                sum(head.imageless for head in self._heads),
                keys,
            ),
        )

    @property
    def fingerprint(self) -> str:
        """Changes whenever a tar comes, goes or is written anew; not with copying."""
        digest = hashlib.sha256()
        for name, head in zip(self._tar_names, self._heads, strict=True):
            digest.update(f"{name} {head.count} {head.digest}\n".encode())
        return digest.hexdigest()[:12]

    def _nothing(self) -> str:
        """Why there are no images, and what to do."""
        path, head = self.paths[0], self._heads[0]
        fix = "check the path"
        if _kind(path, head):
            fix = "unpack it, or copy it again"
        elif any(name.endswith((".tar", ".tar.gz")) for name in head.ignored_names):
            fix = "unpack these tars of tars, and name the inner ones"
        elif head.ignored:
            fix = (
                "rename what is the image of an example, with one suffix (KEY.jpg and "
                "not KEY.input.jpg)"
            )
        seen = "".join(f"; {skipped}" for skipped in skipped_of(self))
        return (
            "Tars hold images by name (KEY.jpg, KEY.txt); found none in "
            f"{len(self.paths)} tars such as {path}{seen}: {fix}."
        )

    def _shard_of(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"The source has {len(self)} rows; got {row}.")
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return shard, int(row - self._ends[shard] + self.shard_sizes[shard])

    def _read(self, shard: int, record: Any) -> dict[str, bytes]:
        """The contents of the parts that a record has, at most so much of each."""
        parts = {part: record[part].tolist() for part in PARTS if record[part][0]}
        end = self._heads[shard].size
        if "image" not in parts or not all(
            0 < start <= start + size <= end for start, size in parts.values()
        ):
            raise OSError(f"its index is damaged: remove {self._indexes[shard]}")
        if parts["image"][1] > _MAX_IMAGE:
            raise OSError(f"{parts['image'][1]} bytes, and the limit is {_MAX_IMAGE}")
        parts = {
            part: (start, min(size, MAX_TEXT_BYTES.get(part, size)))
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


class _OpenTar:
    """A tar that is read at any place by any thread, and closes with its last user.

    What fails is tried again with a new descriptor: that of a network file system may
    be stale for ever. Once all tries of a tar have failed, later reads try once, until
    one succeeds.
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


def _index_folders(tar: Path) -> list[Path]:
    """Where the index of a tar may be kept, the best place first."""
    folder = hashlib.sha256(str(tar.parent.absolute()).encode()).hexdigest()[:12]
    caches, beside = cache_folder(), tar.parent / ".index"
    return [beside] if caches is None else [beside, caches / "tars" / folder]


def _kind(path: Path, head: TarHead) -> str:
    """What a file is that is no tar from its first byte on; "" where that is one."""
    if head.count or not head.damage.endswith("at byte 0"):
        return ""
    return f"; it is {describe_file(path)}"
