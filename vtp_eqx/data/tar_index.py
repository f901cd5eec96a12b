"""An index of the members of a tar: read from its headers, kept in a small file.

Formats are POSIX ustar and pax, GNU and the old V7: long names, and sizes in octal, in
base 256 or as a pax record. Members belong to an example as in WebDataset: `KEY.jpg`,
`KEY.txt`, `KEY.json` and `KEY.cls` share the key, which ends at the first dot of the
file name that only words follow: `img_1.01.png` is the image of `img_1.01`, and
`img_1.mask.png` something else of `img_1`. A link to another member, such as GNU tar
writes for a file of two names, stands for that member.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import posixpath
import re
import tarfile
from typing import Any, BinaryIO

from jaxtyping import Shaped
import numpy as np

from vtp_eqx.data.example_texts import TEXT_PARTS
from vtp_eqx.data.images import SUFFIXES
from vtp_eqx.data.skipped import SYSTEM_NAMES
from vtp_eqx.file_kinds import describe_error
from vtp_eqx.files import atomic_path


Records = Shaped[np.ndarray, " examples"]
PARTS = ("image", "text", "json", "class")
_PART_OF = {suffix.removeprefix("."): "image" for suffix in SUFFIXES}
_PART_OF |= TEXT_PARTS
_SYSTEM = frozenset(name.encode() for name in SYSTEM_NAMES)
_WORD = re.compile(rb"[A-Za-z_]\w*")  # what a suffix may have before its last dot
_VERSION = 2  # of the index files; another one is written anew
_BLOCK = 512
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_ABOUT_THE_NEXT = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
    tarfile.XGLTYPE,
)  # fmt: skip
_NAMES = ("utf-8", "surrogateescape")  # any bytes are names, and come back the same
_MAX_NAME = 2**20  # bytes of long names and pax records; more is damage
_NUM_NAMES, _NAME_LENGTH = 5, 200  # of members that are left out, kept in an index


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarHead:
    """The first line of an index: the tar it is of, and what was found in it."""

    size: int
    mtime_ns: int
    count: int = 0  # examples, each with an image
    digest: str = ""  # of all headers: names, sizes and times of the members
    damage: str = ""  # where the tar stops to be one, or nothing
    lost_bytes: int = 0  # from there on
    ignored: int = 0  # members that belong to no example, by their kind or name
    ignored_names: tuple[str, ...] = ()  # the first of them
    imageless: int = 0  # keys with texts but no image
    imageless_names: tuple[str, ...] = ()  # the first of them


@dataclasses.dataclass(frozen=True)
class _Member:
    """A file or link in a tar, and where its content lies."""

    name: bytes
    kind: bytes
    offset: int
    size: int
    link: bytes = b""

    @property
    def label(self) -> bytes:
        """The name, and where a link leads."""
        return self.name + (b" -> " + self.link if self.kind in _LINKS else b"")


class DamagedTarError(ValueError):
    """Bytes that are not the header of a member; `str` says where and why."""


def load_index(tar: Path, folders: Sequence[Path]) -> tuple[TarHead, Path]:
    """The head of `tar`'s index, and the file with its records.

    The first of `folders` with an index that fits the size and time of the tar has it.
    Where none fits, the headers are read and an index is written to the first folder
    that can be written to. A tar that is gone keeps the index it had: its rows stay
    where they were, so that the order of all others does. One that cannot be read and
    has none raises `OSError`: without its rows, a process would number all others
    in its own way.
    """
    paths = [folder / f"{tar.name}.index" for folder in folders]
    known = [(line[0], path) for path in paths if (line := _read_line(path))]
    status = None
    try:
        status = tar.stat()
        for head, path in known:
            if (head.size, head.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return head, path
        head, records = scan(tar)
    except OSError as error:
        if status is None and known:
            return known[0]
        raise OSError(
            "A tar is read once for its index; got one that cannot be: "
            f"{tar} ({describe_error(error)}): try again, or leave it out."
        ) from error
    refused = []
    for path in paths:
        try:
            write_index(path, head, records)
        except OSError as error:
            refused.append(f"{path.parent} ({describe_error(error)})")
        else:
            return head, path
    raise ValueError(
        "The index of a tar is kept in a file; got nowhere to write it: "
        f"{', '.join(refused)}: make room, or set XDG_CACHE_HOME to another folder."
    )


def scan(tar: Path) -> tuple[TarHead, Records]:
    """The examples of a tar in the order of their first members, from its headers."""
    digest = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    latest: dict[bytes, dict[str, Any]] = {}  # the last example of each key
    places: dict[bytes, tuple[int, int]] = {}  # of all files, for links to them
    early: list[tuple[dict[str, Any], str, _Member]] = []  # links to later members
    ignored: list[bytes] = []
    damage, lost_bytes = "", 0
    # The buffer holds a caption and the header after it, and little of an image.
    with tar.open("rb", buffering=8192) as file:
        status = os.fstat(file.fileno())
        place = 0
        try:
            for member in _members(file, status.st_size, digest):
                key, part, suffix = _split(member.name)
                place = member.offset + member.size
                if place > status.st_size:
                    place = member.offset
                    # An image whose text is cut is no whole example either.
                    if key in latest and latest[key] is rows[-1]:
                        rows.pop()
                    raise DamagedTarError(f"cut in the middle of {_text(member.name)}")
                content = _content(member, places)
                is_early = content is None and member.kind in _LINKS
                if part is None or (content is None and not is_early):
                    ignored.append(member.label)
                    continue
                row = latest.get(key)
                if row is not None and part in row:
                    # The same name again is another example, such as of tars that were
                    # joined; a picture in another format is the same picture.
                    if part == "image" and row["suffix"] != suffix:
                        ignored.append(member.name)
                        continue
                    row = None
                if row is None:
                    row = latest[key] = {"key": key}
                    rows.append(row)
                row[part] = content
                if is_early:
                    early.append((row, part, member))
                if part == "image":
                    row["suffix"] = suffix
        except DamagedTarError as error:
            damage, lost_bytes = str(error), status.st_size - place
    for row, part, member in reversed(early):  # those may lead to one another
        row[part] = _content(member, places)
        if row[part] is None:
            del row[part]
            ignored.append(member.label)
    whole = [row for row in rows if "image" in row]
    imageless = [
        row["key"]
        for row in rows
        if "image" not in row and not row.keys().isdisjoint(PARTS)
    ]
    head = TarHead(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        count=len(whole),
        digest=digest.hexdigest()[:16],
        damage=damage,
        lost_bytes=lost_bytes,
        ignored=len(ignored),
        ignored_names=_first(ignored),
        imageless=len(imageless),
        imageless_names=_first(imageless),
    )
    longest = max((len(row["key"]) for row in whole), default=1)
    records = np.zeros(len(whole), _dtype(longest))
    records["key"] = [row["key"] for row in whole]
    for part in PARTS:
        records[part] = np.array([row.get(part, (0, 0)) for row in whole]).reshape(
            -1, 2
        )
    return head, records


def write_index(path: Path, head: TarHead, records: Records) -> None:
    """Writes one line of JSON, then the records as they lie in memory."""
    line = {"version": _VERSION, "key": records.dtype["key"].itemsize}
    line |= dataclasses.asdict(head)
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.write(records.tobytes())


def map_records(path: Path) -> Records:
    """The records of an index, left on disk until they are looked at.

    Fields are `key` (bytes) and for each of `PARTS` the offset and the size of its
    content; both are 0 where the example has no such part.
    """
    line = _read_line(path)
    if line is None:
        raise ValueError(
            f"An index must be whole; got a damaged one in {path}: open the source "
            "again."
        )
    head, dtype, offset = line
    if not head.count:  # nothing cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=(head.count,))


def _read_line(path: Path) -> tuple[TarHead, np.dtype, int] | None:
    """The head of an index, the type of its records, and where they begin.

    `None` where the index is missing, torn or of another version.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(65_536)
            size = os.fstat(file.fileno()).st_size
        fields = json.loads(line)
        if fields.pop("version") != _VERSION:
            return None
        dtype = _dtype(fields.pop("key"))
        fields.pop("lost", None)  # of indexes written before
        lists = ("ignored_names", "imageless_names")
        head = TarHead(**{**fields, **{name: tuple(fields[name]) for name in lists}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = size == len(line) + head.count * dtype.itemsize
    return (head, dtype, len(line)) if whole else None


def _dtype(key_length: int) -> np.dtype:
    parts = [(part, "<i8", (2,)) for part in PARTS]
    return np.dtype([("key", f"S{key_length}"), *parts])


def _members(file: BinaryIO, end: int, digest: Any) -> Iterator[_Member]:
    """All members but folders; the last one may reach past `end`."""
    place, ended = 0, False
    name = size = link = None  # that a header tells about the next one
    while place < end:
        file.seek(place)
        header = file.read(_BLOCK)
        if ended := not header.strip(b"\0"):
            place += _BLOCK  # the end mark; after it another tar may have been joined
            continue
        digest.update(header)
        info = _parsed(header, place)
        kind, length = info.type, info.size
        if kind in _ABOUT_THE_NEXT:
            if length > _MAX_NAME or place + _BLOCK + length > end:
                raise DamagedTarError(f"a name without an end at byte {place}")
            content = file.read(length)
            digest.update(content)
            if kind == tarfile.GNUTYPE_LONGNAME:
                name = content.partition(b"\0")[0]
            elif kind == tarfile.GNUTYPE_LONGLINK:
                link = content.partition(b"\0")[0]
            elif kind == tarfile.XHDTYPE:
                records = _pax_records(content, place)
                name = records.get(b"path", name)
                link = records.get(b"linkpath", link)
                size = int(records[b"size"]) if b"size" in records else size
        else:
            length = length if size is None else size
            if kind in tarfile.SUPPORTED_TYPES and not info.isreg():
                length = 0  # links, devices, folders
            if kind != tarfile.DIRTYPE:
                member = info.name.encode(*_NAMES) if name is None else name
                target = info.linkname.encode(*_NAMES) if link is None else link
                yield _Member(member, kind, place + _BLOCK, length, target)
            name = size = link = None
        place += _BLOCK + -(-length // _BLOCK) * _BLOCK
    if not ended:
        raise DamagedTarError(f"no end mark at byte {end}")


def _parsed(header: bytes, place: int) -> tarfile.TarInfo:
    """The fields of a header; `DamagedTarError` where the bytes are not one."""
    if len(header) < _BLOCK:
        raise DamagedTarError(f"cut in a header at byte {place}")
    try:
        info = tarfile.TarInfo.frombuf(header, *_NAMES)
    except tarfile.HeaderError:
        info = None
    if info is None or info.size < 0:
        raise DamagedTarError(f"no header of a member at byte {place}")
    # GNU keeps times where POSIX has the first part of a long name.
    if header[345:346] != b"\0" and header[257:265] == tarfile.GNU_MAGIC:
        info.name = header[:100].partition(b"\0")[0].decode(*_NAMES)
    return info


def _pax_records(content: bytes, place: int) -> dict[bytes, bytes]:
    """Records `LENGTH NAME=VALUE`, the length being that of all of it."""
    records, at = {}, 0
    try:
        while content[at : at + 1].strip(b"\0"):
            space = content.index(b" ", at)
            end = at + int(content[at:space])
            name, equals, value = content[space + 1 : end - 1].partition(b"=")
            if not equals or end > len(content) or (name == b"size" and int(value) < 0):
                raise ValueError
            records[name] = value
            at = end
    except ValueError:
        raise DamagedTarError(f"no pax records at byte {place}") from None
    return records


def _content(
    member: _Member, places: dict[bytes, tuple[int, int]]
) -> tuple[int, int] | None:
    """Offset and size of a member's content, or of the known one that it links to."""
    content = None
    if member.kind in _FILES:
        content = member.offset, member.size
    elif member.kind in _LINKS:
        target = member.link
        if member.kind == tarfile.SYMTYPE:  # from where the link is
            target = posixpath.join(posixpath.dirname(member.name), target)
        content = places.get(posixpath.normpath(target))
    if content is not None:
        places[posixpath.normpath(member.name)] = content
    return content


def _split(name: bytes) -> tuple[bytes, str | None, str]:
    """Key, part and suffix of a member; no part where it belongs to no example."""
    folder, slash, file = name.rpartition(b"/")
    stem, *parts = file.split(b".")
    words = 0  # parts that are the suffix: the last one, and words before it
    while words < len(parts) and (not words or _WORD.fullmatch(parts[-1 - words])):
        words += 1
    key = b".".join([stem, *parts[: len(parts) - words]])
    suffix = b".".join(parts[len(parts) - words :]).lower().decode("latin-1")
    # A hidden file, such as macOS packs beside each real one, has no stem.
    is_system = not _SYSTEM.isdisjoint(name.lower().split(b"/"))
    part = _PART_OF.get(suffix) if stem and not is_system else None
    return folder + slash + key, part, suffix


def _first(names: list[bytes]) -> tuple[str, ...]:
    return tuple(_text(name)[:_NAME_LENGTH] for name in names[:_NUM_NAMES])


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
