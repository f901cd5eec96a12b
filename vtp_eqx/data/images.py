"""Decoding of image files to 8-bit RGB, as an image viewer shows them.

Images are rotated as EXIF says, their colors converted to sRGB from the ICC profile of
the file, and transparency is laid on white. The published evaluations drop transparency
and ignore EXIF and profiles; their data sets have next to none of these. The gamma of a
PNG without a profile is not applied.
"""

import functools
import importlib
import io
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageCms, ImageOps

from vtp_eqx.config import printable, require
from vtp_eqx.file_kinds import describe_content, describe_error


SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 2**26  # 67 megapixels: more, read by several threads, fill the memory
TOO_LARGE = f"more than the limit of {MAX_PIXELS:,} pixels: make it smaller"
_PROFILES = 64  # conversions that are kept; ours: a folder has a few cameras
_SAME = 2  # levels; ours: a profile that shifts no color by more is sRGB
Conversions = dict[str, ImageCms.ImageCmsTransform]
_KINDS = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}  # of a profile, and Pillow's


class UnreadableImageError(ValueError):
    """A file that cannot be shown as an image: `name` and `reason` say which and why.

    A reader of many files counts these and goes on.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both, so that it can be pickled
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        # Names, and the words of libraries, may have any character.
        name, reason = printable(self.name), printable(self.reason)
        return (
            f"An image file must be whole and of a known format; got {name} "
            f"({reason}): replace or remove it."
        )


def read_file(path: Path, name: str) -> bytes:
    """The content of a file; `UnreadableImageError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:  # also a file that was there when the folder was listed
        raise UnreadableImageError(name, describe_error(error)) from error


def decode_image(
    content: bytes, name: str, *, least: int | None = None, min_side: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of an encoded image; `name` is where it came from, for the error.

    With `least`, a JPEG may come smaller than it is, from fewer of its frequencies and
    sooner, but no side below `least` that was not. An image with a side below
    `min_side` counts as unreadable.
    """
    if not content:
        raise UnreadableImageError(name, "an empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            require(
                width * height <= MAX_PIXELS, f"{width} x {height} pixels, {TOO_LARGE}"
            )
            require(
                min(width, height) >= min_side,
                f"{width} x {height} pixels, and {min_side} are wanted",
            )
            if least is not None and image.format == "JPEG":
                pixels = _simple_jpeg(image, content, least)
                if pixels is not None:
                    return pixels
                image.draft(None, (least, least))  # of no effect where it cannot
            image.load()
            if image.mode == "RGB" and not image.info:  # nothing to turn or to convert
                return np.array(image)
            _scale_transparent_color(image, content)
            return np.array(_as_rgb(_upright(image)))
    # Damaged files make Pillow's parsers raise nearly everything: OSError, ValueError,
    # SyntaxError, struct.error, IndexError and more.
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"not an image that can be read: {describe_content(content)}"
        elif isinstance(error, Image.DecompressionBombError):
            reason = TOO_LARGE
        raise UnreadableImageError(name, reason) from error


def _simple_jpeg(
    image: Image.Image, content: bytes, least: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Pixels by libjpeg-turbo's own interface where it is installed and can do it all.

    It knows no rotations, inks or profiles, and what it takes for damaged is left to
    Pillow.
    """
    decoder = _simplejpeg()
    is_converted = _conversions(image.info.get("icc_profile")) is not None
    if decoder is None or "exif" in image.info or is_converted:
        return None
    try:
        return decoder.decode_jpeg(content, "RGB", min_height=least, min_width=least)
    except Exception:
        return None


@functools.cache
def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF of whole pixels, which cannot say how to turn them
        return image


def _scale_transparent_color(image: Image.Image, content: bytes) -> None:
    """Gives the transparent color of a PNG as many bits as Pillow gives its pixels."""
    if image.format != "PNG" or "transparency" not in image.info:
        return
    color, bits = image.info["transparency"], content[24]  # of the first chunk
    if image.mode == "RGB" and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif image.mode == "L" and bits < 8:
        image.info["transparency"] = color * 255 // (2**bits - 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _as_gray(image)
    require(
        image.mode != "F",
        "floating-point pixels, which have no known range: convert them to 8 bits",
    )
    conversions = _conversions(image.info.get("icc_profile"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha, image = image.getchannel("A"), image.convert("RGB")
        image = _converted(image, conversions)
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode not in _KINDS.values():
        image = image.convert("RGB")
    return _converted(image, conversions)


def _as_gray(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits as 8, and white where a 16-bit color is transparent.

    16 bits are a whole range, 65535 / 257 = 255. What is white in 32 bits is unknown:
    pixels up to 255 are taken for 8 bits, those up to 65535 for 16, and other ones are
    refused.
    """
    gray = np.asarray(image).astype(np.int64)
    low, high = int(gray.min()), int(gray.max())
    require(
        low >= 0 and high <= 65535,
        f"integer pixels from {low} to {high}, which have no known range: convert them "
        "to 8 bits",
    )
    # Pillow reads 16 bits of a PNG or PGM as 32 in some versions.
    is_wide = image.mode == "I" and image.format not in ("PNG", "PPM")
    scale = 1 if is_wide and high <= 255 else 257
    levels = (gray / scale).round().astype(np.uint8)
    levels[gray == image.info.get("transparency", -1)] = 255
    found = Image.fromarray(levels)
    if "icc_profile" in image.info:
        found.info["icc_profile"] = image.info["icc_profile"]
    return found


def _converted(image: Image.Image, conversions: Conversions | None) -> Image.Image:
    """`image` in sRGB; by a profile of its own kind of colors, where it has one."""
    if conversions is None or image.mode not in conversions:
        return image.convert("RGB")
    try:
        found = ImageCms.applyTransform(image, conversions[image.mode])
    except (ImageCms.PyCMSError, ValueError):
        return image.convert("RGB")
    assert found is not None  # for it was not asked to work in place
    return found


@functools.lru_cache(_PROFILES)
def _conversions(profile: bytes | None) -> Conversions | None:
    """The conversion to sRGB from the profile of a file, by the mode that it is of.

    `None` where there is no profile, where it is damaged, or where it is of sRGB.
    """
    if not profile:
        return None
    try:
        mode = _KINDS[profile[16:20]]
        conversion = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _is_identity(conversion, mode):
            return None
    except (ImageCms.PyCMSError, OSError, KeyError, TypeError):
        return None
    return {mode: conversion}


def _is_identity(conversion: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion leaves all colors as they are, but for rounding."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(colors if mode == "RGB" else levels[None])
    after = ImageCms.applyTransform(before, conversion)
    assert after is not None
    moved = np.asarray(after, int) - np.asarray(before.convert("RGB"), int)
    return bool(np.abs(moved).max() <= _SAME)
