"""Pictures of a run: grids of images, and its log as curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.files import atomic_path
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.sample_files import write_image


GRID_IMAGES = 8  # of which reconstructions are drawn
ENLARGED = 96  # least side of an image in a grid, in pixels
GAP = 4
PANELS: Mapping[str, Sequence[str]] = {
    "loss": ("total", "contrast", "distillation", "reconstruction"),
    "accuracy": ("probe", "zero_shot"),
    "reconstruction, dB": ("psnr",),
    "features": ("feature_rank", "prototypes_used"),
    "latents": ("latent_deviation_least", "latent_deviation_mean"),
    "nearest neighbor": ("neighbor_distance",),
}


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
    write_image(path, canvas)


def save_reconstructions(
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    folder: Path,
    step: int,
) -> None:
    """Writes the first few of `images`, and below them what comes back of each.

    The picture is named by the step of the training.
    """
    some = images[:GRID_IMAGES]
    rows = np.concatenate([some, reconstruct_images(tokenizer, some)])
    save_grid(rows, folder / f"reconstructions-{step:07d}.png", len(some))


def draw_curves(log: Path, path: Path) -> None:
    """Draws the numbers of a `metrics.jsonl` over the steps, those of `PANELS`.

    Panels of which the log has nothing are left out.
    """
    from matplotlib.figure import Figure  # takes a second, and no display

    lines = read_log(log)
    found = {name for line in lines for name in line}
    drawn = {title: names for title, names in PANELS.items() if found & {*names}}
    rows = max(1, -(-len(drawn) // 2))
    figure = Figure(figsize=(9, 2.6 * rows), layout="constrained")
    for place, (title, names) in enumerate(drawn.items()):
        axes = figure.add_subplot(rows, 2, place + 1)
        for name in [name for name in names if name in found]:
            points = [(line["step"], line[name]) for line in lines if name in line]
            steps, values = zip(*points, strict=True)
            # A mark where a line of one point would not be seen.
            axes.plot(steps, values, marker="." if len(points) < 30 else "", label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7, frameon=False)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
