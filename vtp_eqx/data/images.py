"""Image files as 8-bit RGB, whatever camera, editor or web server they come from.

What is shown is what a viewer would show: rotated as EXIF says, colors converted, and
transparency laid on white. The published evaluations drop transparency and ignore
EXIF; their data sets have next to none of either.
"""

import functools
import importlib
import io
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps

from vtp_eqx.config import require


SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 2**26  # 67 megapixels; more are not photographs, and would fill the memory
_EXIF, _HEADER = b"Exif\0\0", 2**16  # a mark, and how much of a JPEG it comes in


class UnreadableImageError(ValueError):
    """A file that cannot be shown as an image: `name` and `reason` say which and why.

    Who reads many files counts these and goes on.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both, so that it can be pickled
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return (
            f"An image file must be whole and of a known format; got {self.name} "
            f"({self.reason}): replace or remove it."
        )


def read_file(path: Path, name: str) -> bytes:
    """The content of a file; `UnreadableImageError`, by `name`, where it has none."""
    try:
        return path.read_bytes()
    except OSError as error:  # also a file that was there when the folder was listed
        reason = error.strerror or type(error).__name__
        raise UnreadableImageError(name, reason) from error


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
            require(width * height <= MAX_PIXELS, f"{width} x {height} pixels")
            require(
                min(width, height) >= min_side,
                f"{width} x {height} pixels, and {min_side} are wanted",
            )
            if least is not None and image.format == "JPEG":
                pixels = _simple_jpeg(content, least)
                if pixels is not None:
                    return pixels
                image.draft(None, (least, least))  # of no effect where it cannot
            image.load()
            if image.mode == "RGB" and not image.info:  # nothing to turn or to convert
                return np.array(image)
            return np.array(_as_rgb(_upright(image)))
    # Damaged files make Pillow's parsers raise nearly everything: OSError, ValueError,
    # SyntaxError, struct.error, IndexError and more.
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not an image" if unknown else str(error) or type(error).__name__
        raise UnreadableImageError(name, reason) from error


def _simple_jpeg(
    content: bytes, least: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Pixels by libjpeg-turbo's own interface where it is installed and can do it all.

    It knows no rotations and no inks, and what it takes for damaged Pillow shall judge.
    """
    decoder = _simplejpeg()
    if decoder is None or _EXIF in content[:_HEADER]:
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


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bits to 8: 65535 / 257 = 255. Pillow would clip everything above 255.
        gray = np.clip(np.asarray(image, np.int64), 0, 65535)
        return Image.fromarray((gray / 257).round().astype(np.uint8)).convert("RGB")
    require(image.mode != "F", "floating-point pixels, which have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
