"""Pixels of unusual files as a viewer shows them, or a reason why not."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest

from tests.data.test_images import encoded
from vtp_eqx.data import images
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.images import decode_image, UnreadableImageError


# Columns of red, green and blue, adapted to the white of profiles (D50).
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189),
              (0.1571, 0.06657, 0.78407))  # fmt: skip
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLORS = np.array([[[255, 0, 0], [0, 200, 0], [90, 120, 60], [0, 0, 0]]], np.uint8)


def icc_profile(gamma, primaries=()):
    """A profile of version 2: of RGB with these primaries, or else of gray."""
    fixed = lambda *values: struct.pack(
        f">{len(values)}i", *(round(value * 65536) for value in values)
    )
    white = fixed(0.9642, 1, 0.8249)
    curve = b"curv" + struct.pack(">IIHxx", 0, 1, round(gamma * 256))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + white, b"kTRC": curve}
    for name, column in zip("rgb", primaries, strict=False):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*column)
        tags[f"{name}TRC".encode()] = curve
    table, start = b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start, len(content))
        start += len(content)
    space = b"RGB " if primaries else b"GRAY"
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x", start, 0x2100000, b"mntr", space, b"XYZ ",
        b"acsp", white,
    )  # fmt: skip
    return head + struct.pack(">I", len(tags)) + table + b"".join(tags.values())


WIDE = icc_profile(2.2, DISPLAY_P3)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("TIFF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_wide_colors_are_those_that_a_viewer_shows(kind, mode, options):
    picture = Image.fromarray(COLORS).convert(mode)
    got = decode_image(encoded(picture, kind, icc_profile=WIDE, **options), "a")
    # By hand, with the matrix from Display P3 to sRGB and the curve of sRGB.
    linear = (COLORS[0] / 255) ** 2.2
    matrix = np.array([[1.2249, -0.2249, 0], [-0.0421, 1.0421, 0],
                       [-0.0196, -0.0786, 1.0983]])  # fmt: skip
    light = (linear @ matrix.T).clip(0, 1)
    curve = np.where(
        light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    np.testing.assert_allclose(got[0], 255 * curve, atol=3)
    assert np.abs(got[0].astype(int) - COLORS[0]).max() > 6


@pytest.mark.parametrize("least", [None, 16])
def test_a_jpeg_keeps_its_wide_colors_by_either_decoder(least):
    picture = Image.fromarray(np.full((64, 64, 3), (90, 120, 60), np.uint8))
    content = encoded(picture, "JPEG", quality=95, icc_profile=WIDE)
    got = decode_image(content, "a", least=least)[0, 0].astype(int)
    expected = decode_image(encoded(Image.fromarray(COLORS), icc_profile=WIDE), "a")
    np.testing.assert_allclose(got, expected[0, 2], atol=2)


def test_gray_follows_its_own_profile():
    gray = Image.fromarray(np.array([[0, 76, 255]], np.uint8))
    got = decode_image(encoded(gray, icc_profile=icc_profile(1.8)), "a")
    # (76 / 255)^1.8 = 0.1132 of the light, which sRGB writes as 94.
    assert got[0, :, 0].tolist() == [0, 94, 255]


@pytest.mark.parametrize(
    "profile", [SRGB, WIDE[:200], b"none", icc_profile(1.8)], ids=range(4)
)
def test_a_profile_that_is_srgb_damaged_or_of_other_colors_changes_nothing(profile):
    picture = Image.fromarray(COLORS)
    got = decode_image(encoded(picture, icc_profile=profile), "a")
    np.testing.assert_array_equal(got, COLORS)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),  # 8 bits in 32
        ([0, 386, 65535], [0, 2, 255]),  # 16 bits in 32
    ],
)
def test_integers_of_32_bits_are_read_by_their_range(levels, expected):
    content = encoded(Image.fromarray(np.array([levels], np.int32)), "TIFF")
    assert decode_image(content, "a")[0, :, 1].tolist() == expected


@pytest.mark.parametrize("levels", [[-1, 5], [0, 65536], [0, 2**31 - 1]])
def test_integers_of_no_known_range_are_refused_with_their_range(levels):
    content = encoded(Image.fromarray(np.array([levels], np.int32)), "TIFF")
    with pytest.raises(UnreadableImageError, match=f"from {levels[0]} to {levels[1]}"):
        decode_image(content, "a")


def test_dark_pixels_of_16_bits_stay_dark():
    content = encoded(Image.fromarray(np.array([[0, 100, 255]], np.uint16)))
    assert decode_image(content, "a")[0, :, 0].tolist() == [0, 0, 1]


def png(bits, kind, row, transparent):
    """A PNG of one row, written by hand, with a transparent color."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + checksum.to_bytes(4)

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, kind, 0, 0, 0))
        + chunk(b"tRNS", transparent)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(16, 0, struct.pack(">2H", 1799, 600), b"\x02\x58"), [7, 255]),
        (png(8, 0, bytes([9, 3]), b"\0\x03"), [9, 255]),
        (png(4, 0, b"\x21", b"\0\x01"), [34, 255]),
        (png(2, 0, b"\x90", b"\0\x01"), [170, 255]),
        (
            png(
                16, 2, struct.pack(">6H", 1799, 0, 0, 600, 700, 800), b"\2\x58\2\xbc\3 "
            ),
            [7, 255],
        ),
    ],
)
def test_a_transparent_color_of_any_depth_lies_on_white(content, expected):
    assert decode_image(content, "a")[0, :, 0].tolist() == expected


def test_images_above_the_limit_are_refused_with_the_limit(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 3)
    with pytest.raises(UnreadableImageError, match="4 x 1 pixels, more than the limit"):
        decode_image(encoded(Image.fromarray(COLORS)), "a")
    with pytest.raises(UnreadableImageError, match=r"the limit of 67,108,864 pixels"):
        decode_image(b"P6 20000 20000 255\n", "a")
    with pytest.raises(ValueError, match=r"resized to .* the limit of 67,108,864"):
        CenterCrop(256)(np.zeros((4, 5000, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS .*git lfs pull"),
        (b"\0\0\0\x20ftypheic\0\0", "a HEIC image"),
        (bytes(2000), "nothing but zeros"),
        (b"\x1f\x8b\x08\0", "gzip-compressed"),
        (b"a caption", "text that begins with 'a caption'"),
    ],
)
def test_what_is_no_image_is_said_to_be_what_it_is(content, words):
    with pytest.raises(UnreadableImageError, match=words):
        decode_image(content, "a.jpg")
