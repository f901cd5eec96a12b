"""Damage for images, tars and files of torch, inside of their frames."""

import io
import pickle
import random
import struct
import tarfile
import zlib

from PIL import Image

from benchmarks.fuzz_mutations import (
    mutate_bytes,
    mutate_json,
    mutate_text,
    mutate_zip,
    NUMBERS,
    Payload,
    TEXTS,
)


Rng = random.Random

_SIZES = (0, 1, 2, 3, 8191, 8192, 65535, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


def mutate_image(content: bytes, rng: Rng) -> bytes:
    """Other sizes and records in the headers of an image; or damaged bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    if rng.random() < 0.005:
        return image_bomb(rng)
    if content.startswith(b"\x89PNG"):
        return _mutate_png(content, rng)
    if content.startswith(b"\xff\xd8"):
        return _mutate_jpeg(content, rng)
    if content[:2] in (b"P5", b"P6"):
        words = content.split(b"\n", 3)
        numbers = (
            b"0",
            b"-1",
            b"99999",
            b"8000 8000",
            b"9" * 30,
            b"1 1",
            b"#",
            b"65536",
        )
        words[rng.randrange(1, len(words))] = rng.choice(numbers)
        words[0] = rng.choice((words[0], b"P1", b"P2", b"P3", b"P4", b"Pf", b"P7"))
        return b"\n".join(words)
    # Of BMP, GIF, TIFF and WebP the numbers of the head or of the directory at the end.
    little = not content.startswith(b"MM")
    size = rng.choice((2, 4))
    place = rng.randrange(min(len(content) - size, 160))
    if rng.random() < 0.5:
        place = max(0, len(content) - size - rng.randrange(160))
    value = rng.choice(_SIZES) % 2 ** (8 * size)
    number = value.to_bytes(size, "little" if little else "big")
    return content[:place] + number + content[place + size :]


def image_bomb(rng: Rng) -> bytes:
    """A small file of nearly as many pixels as are read, or of many more."""
    side = rng.choice((8000, 8000, 8192, 8200, 12_000))
    made = io.BytesIO()
    mode = rng.choice(("1", "1", "L", "LA", "RGBA", "I;16", "P"))
    # Of one strip, which is repeated: the image itself would take the memory.
    bits = {"1": 1, "L": 8, "LA": 16, "RGBA": 32, "I;16": 16, "P": 8}[mode]
    kind = {"1": 0, "L": 0, "LA": 4, "RGBA": 6, "I;16": 0, "P": 3}[mode]
    depth = {"1": 1, "I;16": 16}.get(mode, 8)
    row = b"\0" * (1 + (side * bits + 7) // 8)
    machine = zlib.compressobj(1)
    packed = b"".join(machine.compress(row) for _ in range(side)) + machine.flush()
    made.write(b"\x89PNG\r\n\x1a\n")
    interlaced = 0
    head = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, interlaced)
    chunks = [(b"IHDR", head)]
    if kind == 3:
        chunks += [(b"PLTE", bytes(768)), (b"tRNS", bytes(256))]
    elif kind == 0 and rng.random() < 0.5:
        chunks += [(b"tRNS", b"\0\1")]
    for name, data in [*chunks, (b"IDAT", packed), (b"IEND", b"")]:
        made.write(_chunk(name, data))
    return made.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def _mutate_png(content: bytes, rng: Rng) -> bytes:
    chunks, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        name = content[place + 4 : place + 8]
        chunks.append((name, content[place + 8 : place + 8 + length]))
        place += 12 + length
    number = rng.randrange(len(chunks))
    match rng.randrange(6):
        case 0:
            sizes = struct.pack(">II", rng.choice(_SIZES), rng.choice(_SIZES))
            chunks[0] = b"IHDR", sizes + chunks[0][1][8:]
        case 1:
            head = bytearray(chunks[0][1])
            head[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 255))
            chunks[0] = b"IHDR", bytes(head)
        case 2:
            zeros = zlib.compress(b"\0" * rng.choice((2**16, 2**26)))
            chunks.insert(1, rng.choice((
                (b"zTXt", b"a\0\0" + zeros), (b"iCCP", b"a\0\0" + zeros),
                (b"iTXt", b"a\0\1\0\0\0" + zeros), (b"eXIf", rng.randbytes(40)),
                (b"gAMA", b"\0" * 4), (b"acTL", b"\0\0\xff\xff\0\0\0\0"),
                (b"PLTE", bytes(rng.choice((1, 3, 900)))), (b"tRNS", rng.randbytes(7)),
                (b"pHYs", b""), (b"fcTL", bytes(26)), (b"tEXt", b"a"), (b"cHRM", b"0"),
            )))  # fmt: skip
        case 3:
            del chunks[number]
        case 4:
            chunks.insert(rng.randrange(len(chunks)), chunks[number])
        case _:
            chunks[number] = chunks[number][0], mutate_bytes(chunks[number][1], rng)
    return content[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _mutate_jpeg(content: bytes, rng: Rng) -> bytes:
    places, place = [], 2
    while content[place] == 0xFF and content[place + 1] != 0xDA:
        places.append(place)
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    chosen = rng.choice(places)
    size = int.from_bytes(content[chosen + 2 : chosen + 4], "big")
    inside = content[chosen + 4 : chosen + 2 + size]
    marker = content[chosen + 1]
    if marker in (0xC0, 0xC1, 0xC2) and rng.random() < 0.7:
        sides = struct.pack(">HH", *(rng.choice(_SIZES) % 65536 for _ in range(2)))
        inside = inside[:1] + sides + inside[5:]
    else:
        inside = mutate_bytes(inside, rng)[:65533]
    head = bytes((0xFF, rng.choice((marker,) * 9 + (0xE1, 0xE2, 0xDB))))
    part = head + struct.pack(">H", len(inside) + 2) + inside
    return content[:chosen] + part + content[chosen + 2 + size :]


def mutate_tar(content: bytes, rng: Rng, marker: str) -> bytes:
    """Other names, kinds, sizes and records of members, whose checksums are right."""
    if rng.random() < 0.25:
        return mutate_bytes(content, rng)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        pairs = [(one, b"".join(tar.extractfile(one) or ())) for one in tar]
    number = rng.randrange(len(pairs))
    info, data = pairs[number]
    match rng.randrange(9):
        case 0:
            odd = (
                f"{marker}/{info.name}",
                f"../{info.name}",
                "a\nb.png",
                "é.jpg",
                ".png",
            )
            info.name = rng.choice((*odd, "x" * 300 + ".png", "a/" * 200 + "b.png", ""))
        case 1:
            kinds = (b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"V", b"Z", b"g", b"L")
            info.type = rng.choice(kinds)
            other = rng.choice(pairs)[0].name
            info.linkname = rng.choice(
                (other, info.name, "../" + other, marker, "", "/")
            )
        case 2:
            is_json = info.name.endswith("json")
            is_image = info.name.endswith(("png", "jpg"))
            mutate = (
                mutate_json if is_json else mutate_image if is_image else mutate_text
            )
            data = mutate(data, rng)
        case 3:
            odd = (
                ("size", rng.choice(("-1", "9" * 30, "1_0", "", "x", "0"))),
                ("path", rng.choice(TEXTS)),
                ("linkpath", marker),
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.map", "0,9999999999"),
            )
            info.pax_headers = dict([rng.choice(odd)])
        case 4:
            pairs.append((info, data))
        case 5:
            data = content
        case _:
            pass
    info.size = len(data)
    pairs[number] = info, data
    if rng.random() < 0.2:
        rng.shuffle(pairs)
    made = io.BytesIO()
    kind = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=made, mode="w", format=kind) as tar:
        for one, member in pairs:
            if one.type in (b"0", b"\0"):
                one.size = len(member)
            with_data = io.BytesIO(member)
            try:
                tar.addfile(one, with_data)
            except (ValueError, UnicodeError):
                continue
    return (
        _mutate_tar_header(made.getvalue(), rng)
        if rng.random() < 0.5
        else made.getvalue()
    )


def _mutate_tar_header(content: bytes, rng: Rng) -> bytes:
    starts = [
        place
        for place in range(0, len(content) - 512, 512)
        if content[place + 257 : place + 262] == b"ustar"
    ]
    if not starts:
        return content
    start = rng.choice(starts)
    header = bytearray(content[start : start + 512])
    fields = {"size": (124, 12), "mode": (100, 8), "mtime": (136, 12), "name": (0, 100),
              "kind": (156, 1), "link": (157, 100), "prefix": (345, 155)}  # fmt: skip
    place, length = fields[rng.choice(("size", "size", "size", *fields))]
    odd = rng.choice((
        b"77777777777", b"00000000001", b"-0000000001", b"\x80" + b"\xff" * 11,
        b"\xff" * 12, b"\xff" * 11 + b"\x01", b"9999", b"",
        b"\x80" + b"\0" * 10 + b"\x05", rng.randbytes(length), b"00000001000",
    ))  # fmt: skip
    header[place : place + length] = odd[:length].ljust(length, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:start] + bytes(header) + content[start + 512 :]


def mutate_torch(content: bytes, rng: Rng, marker: str) -> bytes:
    """Another program in a file of torch, or other records."""
    if rng.random() < 0.15:
        return mutate_bytes(content, rng)
    if not content.startswith(b"PK"):  # of before version 1.6: programs, one by one
        return mutate_program(content, rng, marker)

    def mutate(name: str, member: bytes) -> bytes:
        if name.endswith("data.pkl"):
            return mutate_program(member, rng, marker)
        return mutate_bytes(member, rng)

    program = "data.pkl" if rng.random() < 0.5 else ""
    return mutate_zip(content, rng, mutate, program)


def mutate_program(program: bytes, rng: Rng, marker: str) -> bytes:
    """A pickle of tensors with other numbers, names and instructions."""
    match rng.randrange(6):
        case 0:
            return pickle.dumps(Payload(marker), rng.choice((0, 2, 4)))
        case 1:  # the call in front of all else
            call = b"cos\nmkdir\n(V" + marker.encode() + b"\ntR0"
            return program[:2] + call + program[2:]
        case 2:
            names = (b"ctorch\nFloatStorage", b"ctorch._utils\n_rebuild_tensor_v2")
            name = rng.choice(names)
            other = (
                b"cbuiltins\neval",
                b"cos\nsystem",
                b"ctorch\nnn",
                b"c\n",
                names[0],
            )
            return program.replace(name, rng.choice(other), 1)
        case 3:
            kind = rng.choice((b"K", b"M", b"J"))
            places = [p for p in range(len(program)) if program[p : p + 1] == kind]
            if not places:
                return program
            place, size = rng.choice(places), {b"K": 1, b"M": 2, b"J": 4}[kind]
            number = int(rng.choice([n for n in NUMBERS if isinstance(n, int)]))
            packed = (number % 2 ** (8 * size)).to_bytes(size, "little")
            return program[: place + 1] + packed + program[place + 1 + size :]
        case 4:  # a number of any size instead of a small one
            place = program.find(b"K", rng.randrange(len(program)))
            number = rng.choice([n for n in NUMBERS if isinstance(n, int)])
            long = pickle.dumps(number, 2)[2:-1]
            return program[:place] + long + program[place + 2 :]
        case _:
            return mutate_bytes(program, rng)


def image_bytes(kind: str) -> bytes:
    """A small image with what its format can carry."""
    image = Image.effect_noise((24, 20), 90)
    colors = Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    match kind:
        case "palette.png":
            colors.quantize(7).save(made, "PNG", transparency=1)
        case "alpha.png":
            colors.putalpha(image)
            colors.save(made, "PNG", exif=exif)
        case "gray16.png":
            Image.new("I;16", (9, 9), 700).save(made, "PNG")
        case "cmyk.jpg":
            colors.convert("CMYK").save(made, "JPEG")
        case "progressive.jpg":
            colors.save(made, "JPEG", progressive=True, exif=exif)
        case "moving.gif":
            frames = [colors.rotate(angle) for angle in (90, 180)]
            colors.save(
                made, "GIF", save_all=True, append_images=frames, transparency=0
            )
        case "lzw.tiff":
            colors.save(made, "TIFF", compression="tiff_lzw")
        case "raw.tiff" | "bmp" | "webp" | "ppm" | "png" | "jpg":
            names = {"raw.tiff": "TIFF", "jpg": "JPEG"}
            colors.save(made, names.get(kind, kind.upper()), exif=exif)
        case _:
            image.save(made, {"pgm": "PPM", "l.tiff": "TIFF"}[kind])
    return made.getvalue()


IMAGES = (
    "png", "palette.png", "alpha.png", "gray16.png", "jpg", "cmyk.jpg",
    "progressive.jpg", "moving.gif", "bmp", "raw.tiff", "lzw.tiff", "l.tiff", "webp",
    "ppm", "pgm",
)  # fmt: skip
