"""Reconstructions of several tokenizers side by side, each with its error map."""

from collections.abc import Mapping
import itertools
from pathlib import Path
import textwrap
from typing import NamedTuple, TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8
import numpy as np

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.loader import Source
from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.evaluation.images import Images, read_square
from vtp_eqx.evaluation.reconstruction import psnr
from vtp_eqx.files import atomic_path
from vtp_eqx.models.tokenizer import Tokenizer


if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL, GAP, LINE, BAR, BAR_WIDTH = 1.5, 0.08, 0.24, 0.9, 0.15  # inches
COLORS = "inferno"  # of errors
DPI, FONT = 120, 12  # read at half size too
WRAP = 22  # letters of a name in a line, which is as wide as two cells
PERCENTILE = 99.5  # of all errors: the upper end of their scale


class Reconstructed(NamedTuple):
    """What a tokenizer was given, at its own image size, and what came back."""

    original: UInt8[np.ndarray, "num size size 3"]
    image: UInt8[np.ndarray, "num size size 3"]


def reconstruct_some(
    tokenizer: Tokenizer, source: Source, num_images: int
) -> Reconstructed:
    """Images of `source`, evenly spread, at the tokenizer's size, and what comes back.

    ADM's center crop, so that tokenizers of other image sizes have the same parts. An
    image that cannot be read is a `ValueError`.
    """
    crop = CenterCrop(tokenizer.config.image_size)
    images = Images(source=source, crop=crop, limit=num_images)
    squares = []
    for row in images.rows:
        example = read_square(images, int(row))
        if example.image is None:
            raise ValueError(
                f"`source` must have images that can be read; got {example.name} "
                f"({example.reason}): remove it, or take another number of images."
            )
        squares.append(example.image)
    original = np.stack(squares)
    return Reconstructed(original, reconstruct_images(tokenizer, original))


def error_maps(pair: Reconstructed) -> Float[np.ndarray, "num size size"]:
    """The absolute error of each pixel, its mean over channels, in levels of a byte."""
    return np.abs(pair.image.astype(float) - pair.original).mean(axis=3)


def save_gallery(columns: Mapping[str, Reconstructed], path: Path) -> None:
    """Writes the picture of `gallery_figure` to `path`, as PNG."""
    with atomic_path(path) as unfinished:
        gallery_figure(columns).savefig(unfinished, format="png", dpi=DPI)


def gallery_figure(columns: Mapping[str, Reconstructed]) -> "Figure":
    """A row for each image: itself, and of each tokenizer what came back and its error.

    `columns` are tokenizers by the names that stand above them; all have the same
    images. Above a reconstruction is its PSNR in dB, the mean over the images. All
    error maps have one scale, beside them; its upper end leaves out 0.5% of the pixels.
    """
    from matplotlib.cm import ScalarMappable  # takes a second, and no display
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    names = {name: _lines(name) for name in columns}
    errors = {name: error_maps(pair) for name, pair in columns.items()}
    every = np.concatenate([error.ravel() for error in errors.values()])
    norm = Normalize(0.0, max(float(np.percentile(every, PERCENTILE)), 1.0))
    largest = max(columns.values(), key=lambda pair: pair.original.shape[1]).original
    num_rows, num_columns = len(largest), 1 + 2 * len(columns)
    header = LINE * (max(map(len, names.values())) + 2)
    width = num_columns * (CELL + GAP) + GAP + BAR
    height = num_rows * (CELL + GAP) + GAP + header
    figure = Figure(figsize=(width, height))

    def left(column: int) -> float:
        return (GAP + column * (CELL + GAP)) / width

    def draw(column: int, images: np.ndarray, text: str) -> None:
        """A column of pictures, and a word above it."""
        write(column, 1, 0.3, text)
        for row, image in enumerate(images):
            bottom = height - header - (row + 1) * (CELL + GAP)
            place = (left(column), bottom / height, CELL / width, CELL / height)
            axis = figure.add_axes(place)
            axis.imshow(image, COLORS, norm, interpolation="nearest")
            axis.set_axis_off()

    def write(
        column: int, cells: int, line: float, text: str, weight: str = "normal"
    ) -> None:
        middle = left(column) + (cells * (CELL + GAP) - GAP) / 2 / width
        above = (height - header + line * LINE) / height
        figure.text(middle, above, text, ha="center", fontsize=FONT, weight=weight)

    draw(0, largest, "original")
    for column, (name, pair) in zip(itertools.count(1, 2), columns.items()):
        write(column, 2, 1.5, "\n".join(names[name]), weight="bold")
        draw(column, pair.image, f"{_mean_psnr(pair):.1f} dB")
        draw(column + 1, errors[name], "error")
    high = num_rows * (CELL + GAP) - GAP
    bar = figure.add_axes(
        (left(num_columns), GAP / height, BAR_WIDTH / width, high / height)
    )
    figure.colorbar(ScalarMappable(norm, COLORS), bar, extend="max")
    bar.set_ylabel("error (of 255)", fontsize=FONT)
    bar.tick_params(labelsize=FONT)
    return figure


def _lines(name: str) -> list[str]:
    """A name in lines that end at its commas, where its parts are short enough."""
    parts = [
        part if len(part) >= WRAP else part.replace(" ", "\N{NO-BREAK SPACE}")
        for part in name.split(", ")
    ]
    return textwrap.wrap(", ".join(parts), WRAP)


def _mean_psnr(pair: Reconstructed) -> float:
    """The mean over images, in dB; infinite where one comes back as it was."""
    original, image = (jnp.asarray(images) / 255 for images in pair)
    return float(jnp.mean(jax.vmap(psnr)(image, original)))
