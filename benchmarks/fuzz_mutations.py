"""Damage for files: of bytes, and of formats whose frame stays whole.

Bytes that are changed anywhere mostly fail at a checksum or in the first line of a
parser. So numbers, names, types, lengths and shapes are changed inside of headers, and
lengths and checksums around them are made right again.
"""

from collections.abc import Callable
import functools
import io
import json
import math
import os
import pickle
import random
import struct
from typing import Any
import warnings
import zipfile
import zlib


Rng = random.Random

NUMBERS = (
    0, 1, -1, 2, 7, 255, 256, 65535, 10**6, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63,
    -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf,
)  # fmt: skip
TEXTS = (
    "", " ", "nan", "\0", "a\nb", "../../etc/passwd", "/etc/passwd", "{}", "float32",
    "O", "|O", ">f8", "<U9", "\ud800", "é" * 50, "x" * 20_000, "-1", "None", "bfloat16",
    "__class__", "%s%n", "[1", "\u202e",
)  # fmt: skip
_ENCODINGS = ("utf-16", "utf-8-sig", "utf-32", "latin-1", "utf-7", "cp037")
# Types of safetensors and of NumPy, some of which are none.
_DTYPES = (
    "F64", "F16", "BF16", "I32", "U32", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64",
    "E8M0",
)  # fmt: skip
_KINDS = (
    "|O", "<f2", "<f8", "<c16", "|u1", "<i8", "<U3", "|S5", "|V7", "<M8[s]", "?",
    "<f16", "<i3", "(3,)f4",
)  # fmt: skip
_PAGE = b"<!doctype html><html><body>404</body></html>"


class Payload:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker: str):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def mutate_bytes(content: bytes, rng: Rng) -> bytes:
    """One to three changes at any place."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice(_BYTES)(content, rng)
    return content


def _flip(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 16)) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: Rng) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _overwrite(content: bytes, rng: Rng) -> bytes:
    place, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8, 64))
    filler = rng.choice((b"\0", b"\xff", b"A", b"\x80", b"9"))
    return content[:place] + filler * size + content[place + size :]


def _integer(content: bytes, rng: Rng) -> bytes:
    kind = rng.choice(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    size = struct.calcsize(kind)
    value = int(rng.choice([n for n in NUMBERS if isinstance(n, int)]))
    packed = struct.pack(kind, value % 2 ** (8 * size))
    place = rng.randrange(max(1, len(content) - size))
    return content[:place] + packed + content[place + size :]


def _digits(content: bytes, rng: Rng) -> bytes:
    places = [place for place, byte in enumerate(content[:4096]) if 48 <= byte < 58]
    if not places:
        return content
    place = rng.choice(places)
    number = rng.choice((b"0", b"9", b"-", b"99999999999", b"e", b"_1", b"\xd9\xa1"))
    return content[:place] + number + content[place + 1 :]


def _move(content: bytes, rng: Rng) -> bytes:
    first, second = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    part = content[first:second]
    return (
        content[:first] + rng.choice((b"", part + part, part[::-1])) + content[second:]
    )


def _as_other(content: bytes, rng: Rng) -> bytes:
    return rng.choice((
        b"", _PAGE, content * 2, zlib.compress(content), b"\xef\xbb\xbf" + content,
        b"\0" * len(content), content + b"\0" * 1000, rng.randbytes(len(content)),
    ))  # fmt: skip


_BYTES = (_flip, _flip, _cut, _overwrite, _integer, _integer, _digits, _move, _as_other)


def mutate_text(content: bytes, rng: Rng) -> bytes:
    """Text of another encoding, with other lines, or damaged as any bytes."""
    text = content.decode("utf-8", "replace")
    choice = rng.randrange(4)
    if choice == 0:
        return text.encode(rng.choice(_ENCODINGS), "replace")
    if choice == 1:
        lines = text.split("\n")
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(TEXTS))
        rng.shuffle(lines)
        separator = rng.choice(("\n", "\r\n", "\r", "\u2028", "\x85", "\n\n"))
        return separator.join(lines).encode("utf-8", "surrogatepass")
    if choice == 2:
        mark = rng.choice(("{", "}", "{}{}", "{0}", "{c}", "%s", '"', "\0", "\t"))
        place = rng.randrange(len(text) + 1)
        return (text[:place] + mark + text[place:]).encode()
    return mutate_bytes(content, rng)


def mutate_json(content: bytes, rng: Rng) -> bytes:
    """Other values, names twice, missing or more of them; or damaged as text."""
    if rng.random() < 0.15:
        return mutate_text(content, rng)
    if rng.random() < 0.03:
        depth = rng.choice((500, 100_000))
        return b"[" * depth + b"]" * depth
    found = json.loads(content)
    for _ in range(rng.choice((1, 1, 2))):
        found = mutate_value(found, rng)
    if isinstance(found, dict) and found and rng.random() < 0.1:  # a name twice
        name = rng.choice(list(found))
        pair = f"{json.dumps(name)}: {json.dumps(_other(found[name], rng))}"
        text = json.dumps(found)
        return _encoded(rng.choice((f"{{{pair}, {text[1:]}", f"{text[:-1]}, {pair}}}")))
    return _encoded(json.dumps(found, ensure_ascii=rng.random() < 0.5))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def mutate_value(value: Any, rng: Rng) -> Any:
    """A value of JSON in which something at any depth is another."""
    inside = isinstance(value, dict | list) and value and rng.random() < 0.9
    if not inside:
        return _other(value, rng)
    if isinstance(value, list):
        value, place = list(value), rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                del value[place]
            case 1:
                value.insert(place, value[-1])
            case _:
                value[place] = mutate_value(value[place], rng)
        return value
    value, name = dict(value), rng.choice(list(value))
    match rng.randrange(9):
        case 0:
            del value[name]
        case 1:
            value[rng.choice((name + "_", name.upper(), *TEXTS))] = value.pop(name)
        case 2:
            other = rng.choice(list(value))
            value[name], value[other] = value[other], value[name]
        case _:
            value[name] = mutate_value(value[name], rng)
    return value


def _other(value: Any, rng: Rng) -> Any:
    if isinstance(value, bool) and rng.random() < 0.5:
        return not value
    if isinstance(value, int | float) and rng.random() < 0.7:
        return rng.choice((*NUMBERS, value + 1, -value, value * 2, float(value)))
    if isinstance(value, str) and rng.random() < 0.5:
        return rng.choice((*TEXTS, value[:-1], value + "0", value.upper()))
    return rng.choice((
        None, True, [], {}, [value], {"a": value}, [[]], str(value)[:50],
        rng.choice(NUMBERS), rng.choice(TEXTS),
    ))  # fmt: skip


def mutate_safetensors(content: bytes, rng: Rng) -> bytes:
    """Another header around the same bytes, or other numbers; or damaged bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(content, rng)
    length = int.from_bytes(content[:8], "little")
    header, numbers = content[8 : 8 + length], content[8 + length :]
    match rng.randrange(6):
        case 0:
            kind = rng.choice((math.nan, math.inf, 1e38))
            count = rng.randrange(1, 1 + len(numbers) // 4)
            numbers = struct.pack("<f", kind) * count + numbers[4 * count :]
        case 1:
            fields = json.loads(header)
            name = rng.choice([name for name in fields if name != "__metadata__"])
            fields[name]["dtype"] = rng.choice(_DTYPES)
            header = json.dumps(fields).encode()
        case 2:
            fields = json.loads(header)
            name = rng.choice([name for name in fields if name != "__metadata__"])
            shape = fields[name]["shape"]
            fields[name]["shape"] = rng.choice(
                (shape[::-1], [1, *shape], [*shape, 1], [0, 2**40], [2**33, 2**33, 0])
            )
            if 0 in fields[name]["shape"]:
                fields["empty"] = {**fields[name], "data_offsets": [0, 0]}
            header = json.dumps(fields).encode()
        case 3:
            fields = json.loads(header)
            notes = fields.get("__metadata__", {"format": "pt"})
            name = rng.choice(list(notes))
            value = notes[name].encode()
            is_json = value.startswith(b"{")
            value = mutate_json(value, rng) if is_json else mutate_text(value, rng)
            notes = {**notes, name: value.decode("utf-8", "replace")}
            header = json.dumps({**fields, "__metadata__": notes}).encode()
        case _:
            header = mutate_json(header, rng)
    claimed = len(header) if rng.random() < 0.95 else rng.choice((0, 2**20, 2**63))
    return claimed.to_bytes(8, "little") + header + numbers


def mutate_zip(
    content: bytes, rng: Rng, mutate: Callable[[str, bytes], bytes], favorite: str = ""
) -> bytes:
    """A zip with a member that `mutate` made, or with other members; sums are right.

    That member is the one whose name ends in `favorite`, or any.
    """
    members = _members(content)
    names = list(members)
    name = rng.choice([name for name in names if name.endswith(favorite)])
    choice = rng.randrange(10)
    pairs = [(one, members[one]) for one in names]
    if choice < 6:
        pairs = [(n, mutate(n, c) if n == name else c) for n, c in pairs]
    elif choice == 6:
        pairs = [(n, c) for n, c in pairs if n != name]
    elif choice == 7:
        pairs.append((name, mutate(name, members[name])))
    elif choice == 8:
        other = rng.choice(
            (rng.choice(names), "../" + name, "/" + name, "a\nb", name[1:])
        )
        pairs = [(other if n == name else n, c) for n, c in pairs]
    else:
        other = rng.choice(names)
        swapped = {name: members[other], other: members[name]}
        pairs = [(n, swapped.get(n, c)) for n, c in pairs]
    made, stored = io.BytesIO(), rng.random() < 0.7
    kind = zipfile.ZIP_STORED if stored else rng.choice((8, 12, 14))
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for one, member in pairs:
            archive.writestr(one or "-", member)
    return mutate_bytes(made.getvalue(), rng) if rng.random() < 0.1 else made.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def mutate_npz(content: bytes, rng: Rng, marker: str) -> bytes:
    """Arrays with other headers, objects that run code, and few bytes for gigabytes."""
    chance = rng.random()
    if chance < 0.2:
        return mutate_bytes(content, rng)
    if chance < 0.22:
        return zip_bomb(rng.choice(list(_members(content))), rng)
    return mutate_zip(content, rng, lambda _, member: mutate_npy(member, rng, marker))


def mutate_npy(content: bytes, rng: Rng, marker: str) -> bytes:
    """An array with another header, or with a pickle in it."""
    if not content.startswith(b"\x93NUMPY") or rng.random() < 0.1:
        return mutate_bytes(content, rng)
    size = int.from_bytes(content[8:10], "little")
    header, numbers = content[10 : 10 + size], content[10 + size :]
    text = header.decode("latin-1").strip()
    match rng.randrange(8):
        case 0:
            text = text.replace("'<", rng.choice(("'>", "'|", "'", "'=")))
        case 1:
            start = text.index("'descr':") + len("'descr':")
            end = text.index(", 'fortran")
            kind = rng.choice(
                (*map(repr, _KINDS), "[('a', '<f4')]", "None", "'<f4', 1")
            )
            text = text[:start] + kind + text[end:]
        case 2:
            start = text.index("'shape':") + len("'shape':")
            shape = rng.choice((
                "()", "(0,)", "(-1,)", "(2**70,)", "(9223372036854775807,)", "(3.0,)",
                "(10000000000,)", "(1, 1000000, 1000000, 3)", "None", "(1,) * 40",
                "(0, 99999999999)", "(True,)", f"({rng.randrange(99)},)", "((1,),)",
                "(0, 8, 8, 3)", "(4, 0, 8, 3)", "(1, 8, 8, 1)",
            ))  # fmt: skip
            text = f"{text[:start]} {shape}, }}"
        case 3:
            text = text.replace("False", rng.choice(("True", "None", "0", "[]")))
        case 4:
            calls = f"__import__('os').mkdir({marker!r})"
            text = text.replace("False", calls)
        case 5:
            text = rng.choice(
                ("(" * 3000, "{'descr': '<f4'}", "[]", text + "\n1", "'''")
            )
        case 6:
            text = text[: text.index("descr")] + "descr': '|O', 'fortran_order': False"
            text += ", 'shape': (1,), }"
            numbers = pickle.dumps(Payload(marker))
        case 7:
            kind = rng.choice((math.nan, math.inf, -1e30))
            numbers = struct.pack("<d", kind) * (len(numbers) // 8 + 1)
    version = rng.choice((b"\x01\x00",) * 8 + (b"\x02\x00", b"\x09\x00"))
    header = text.encode("latin-1", "replace") + b"\n"
    return (
        b"\x93NUMPY"
        + version
        + struct.pack("<H", len(header) % 65536)
        + header
        + numbers
    )


@functools.cache
def _zeros(size: int) -> bytes:
    """Mebibytes of zeros as the middle of a deflated stream."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = machine.compress(b"\0" * 2**20) + machine.flush(zlib.Z_FULL_FLUSH)
    return block * size


def zip_bomb(name: str, rng: Rng) -> bytes:
    """Three gigabytes of zeros in three megabytes, after the header of an array."""
    size = 3 * 2**30
    kind, shape = rng.choice((("|u1", (size // 192, 8, 8, 3)), ("<f8", (size // 8,))))
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    header = b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    machine = zlib.compressobj(1, zlib.DEFLATED, -15)
    start = machine.compress(header) + machine.flush(zlib.Z_FULL_FLUSH)
    packed = start + _zeros(size // 2**20) + b"\x03\x00"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"")
    empty = bytearray(made.getvalue())
    # The checksum stays that of nothing: it is compared when all was unpacked.
    at = empty.index(b"PK\x01\x02")
    head, directory, end = empty[:30], empty[at:], empty[at:].index(b"PK\x05\x06")
    for record, place in ((head, 18), (directory, 20)):
        struct.pack_into("<II", record, place, len(packed), len(header) + size)
    body = bytes(head) + name.encode() + packed
    struct.pack_into("<I", directory, end + 16, len(body))
    return body + bytes(directory)
