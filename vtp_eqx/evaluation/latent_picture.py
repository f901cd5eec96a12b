"""A picture of latents: principal components as colors, and three spectra."""

from pathlib import Path

from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
import numpy as np

from vtp_eqx.evaluation.latent_panel import Diagnosis
from vtp_eqx.files import atomic_path


NUM_PICTURED = 8  # images in a row
COLORS = ("#0b5fa5", "#d1495b")
REACH = 2.0  # ours: deviations of a component from its mean to the end of a color
FONT = 15  # points: to be read where the picture is drawn at half its size
# What stands below the title, where it was measured.
HEADLINE = ("PSNR", "VIV", "SEC 0.5", "LNC@10 over chance", "SRSS", "LPC pixels")


def save_picture(
    diagnosis: Diagnosis,
    rows: Int[np.ndarray, " pictured"],
    images: UInt8[np.ndarray, "pictured height width 3"],
    path: Path,
) -> None:
    """Writes to `path` what a diagnosis has of latents; `rows` are those of `images`.

    Above, images and what the first and the next three principal components of their
    channels are, as red, green and blue. Below, the eigenvalues of the covariance, the
    energy by frequency, and the cosine of two cells by distance.
    """
    figure = Figure(figsize=(15, 11.5), layout="constrained")
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2.6))
    above, below = halves[:, 0]
    _draw_images(above.subplots(3, len(rows)), diagnosis.latents, rows, images)
    height, width, channels = diagnosis.latents.shape[1:]
    above.suptitle(
        f"{len(diagnosis.latents):,} images, latents {height} x {width} x {channels}\n"
        + ",  ".join(
            f"{name} {diagnosis.panel[name].value:.3g}"
            for name in HEADLINE
            if name in diagnosis.panel
        ),
        fontsize=FONT + 1,
    )
    eigenvalue_axis, energy_axis, similarity_axis = below.subplots(1, 3)
    _draw_eigenvalues(eigenvalue_axis, diagnosis)
    _draw_energy(energy_axis, diagnosis)
    _draw_similarity(similarity_axis, diagnosis)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)


def component_colors(
    latents: Float[np.ndarray, "count height width channels"],
    chosen: Float[np.ndarray, "pictured height width channels"],
    num: int,
) -> Float[np.ndarray, "pictured height width {num}"]:
    """The first `num` principal components of `latents`, of `chosen` ones.

    Gray is the mean, and components that there are none of.
    """
    cells = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    mean = cells.mean(axis=0)
    cells -= mean
    covariance = cells.T @ cells / len(cells)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:num]
    # The sign of a component means nothing: its largest entry is positive.
    axes = vectors[:, order]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(order))])
    scale = REACH * np.sqrt(np.maximum(values[order], np.finfo(np.float64).tiny))
    colors = 0.5 + (chosen - mean) @ axes / scale / 2
    missing = [(0, 0)] * 3 + [(0, num - len(order))]
    return np.clip(np.pad(colors, missing, constant_values=0.5), 0, 1)


def _draw_images(
    axes: np.ndarray, latents: np.ndarray, rows: np.ndarray, images: np.ndarray
) -> None:
    colors = component_colors(latents, latents[rows], 6)
    lines = (
        ("images", images),
        ("components\n1, 2, 3", colors[..., :3]),
        ("components\n4, 5, 6", colors[..., 3:]),
    )
    for line, (name, pictures) in zip(axes, lines, strict=True):
        line[0].set_ylabel(name, fontsize=FONT)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)


def _draw_eigenvalues(axis: Axes, diagnosis: Diagnosis) -> None:
    names = diagnosis.spectra.items()
    for color, (name, spectrum) in zip(COLORS, names, strict=False):
        ranks = np.arange(1, 1 + len(spectrum.all))
        axis.plot(ranks, spectrum.all, color=color, linewidth=2.5, label=name)
    top = max(spectrum.all[0] for spectrum in diagnosis.spectra.values())
    axis.set(xscale="log", yscale="log")
    axis.set_ylim(top * 1e-5, top * 2)
    _finish(axis, "eigenvalues of the covariance", "rank")


def _draw_energy(axis: Axes, diagnosis: Diagnosis) -> None:
    if diagnosis.energy is not None:
        axis.plot(
            diagnosis.energy, "o-", color=COLORS[0], linewidth=2.5, label="latents"
        )
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axis.axhline(1, color="gray", linestyle=":", linewidth=2.5, label="white noise")
    _finish(axis, "energy of a number", "frequency, down + across")


def _draw_similarity(axis: Axes, diagnosis: Diagnosis) -> None:
    names = diagnosis.similarity.items()
    for color, (name, values) in zip(COLORS, names, strict=False):
        distances = np.arange(1, len(values))
        axis.plot(distances, values[1:], "o-", color=color, linewidth=2.5, label=name)
    axis.axhline(0, color="gray", linewidth=1)
    _finish(axis, "mean cosine of two cells", "distance, down + across")


def _finish(axis: Axes, title: str, x_label: str) -> None:
    axis.set_title(title, fontsize=FONT)
    axis.set_xlabel(x_label, fontsize=FONT)
    axis.tick_params(which="both", labelsize=FONT - 1)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=FONT - 1)
