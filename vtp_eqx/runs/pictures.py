"""Grids of images."""

from pathlib import Path

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from vtp_eqx.files import atomic_path


ENLARGED = 96  # least side of an image in a grid, in pixels
GAP = 4


def save_grid(
    images: UInt8[np.ndarray, "num height width 3"], path: Path, columns: int
) -> None:
    """Writes `images` row by row; of small ones, each pixel becomes a square."""
    factor = max(1, -(-ENLARGED // images.shape[1]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    canvas = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8
    )
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    with atomic_path(path) as unfinished:
        Image.fromarray(canvas).save(unfinished, format="PNG")
