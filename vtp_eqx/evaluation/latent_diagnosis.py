"""A tokenizer diagnosed: are its latents good to generate on?

The measures that were found to predict how well generators do on a tokenizer's latents,
taken without a generator, with their card and a picture. They were found so among
tokenizers that reconstruct equally well ("Diffusing in the Right Space", 2606.03578):
compare at like PSNR, and on the same images.
"""

import dataclasses

from jaxtyping import Bool, Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.labels import NO_LABEL
from vtp_eqx.evaluation.card import settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.decoder_continuity import Continuity, continuity, NUM_IMAGES
from vtp_eqx.evaluation.equivariance import (
    equivariance_error,
    probed_latents,
    TRANSFORMS,
)
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig, FeatureTable
from vtp_eqx.evaluation.images import Images, read_square
from vtp_eqx.evaluation.intervals import flat_numbers, ratio
from vtp_eqx.evaluation.latent_panel import diagnose_latents, Diagnosis
from vtp_eqx.evaluation.networks import FeatureNetwork, PerceptualNetwork
from vtp_eqx.models.tokenizer import Tokenizer


CARD, PICTURE = "card_diagnosis.json", "diagnosis.png"  # what `diagnose` writes
VERSION = 1  # of what is measured: numbers of another one are not comparable
# Where generators did better, among tokenizers that reconstruct equally well.
BETTER = {
    "VIV *": "", "VIV": "lower", "SEC": "lower", "LNC": "higher", "LDS": "higher",
    "SRSS": "higher", "LPC": "lower", "equivariance": "lower", "linear probe": "higher",
    "local correlation": "higher",
}  # fmt: skip


def diagnose(
    tokenizer: Tokenizer,
    images: Images,
    place: ExtractConfig,
    *,
    network: FeatureNetwork | None = None,
    perceptual: PerceptualNetwork | None = None,
    masks: Bool[np.ndarray, "count rows columns"] | None = None,
) -> Diagnosis:
    """The whole panel of a tokenizer, written with its card and picture to `place`.

    `masks` are of all rows of the source, at the size of the squares or at one that
    fits the grid. `network` and `perceptual` say how far images went in LPC.
    Intervals of 95% are those of drawing other classes for VIV, a jackknife over tenths
    of the images for other covariances, Wilson's for probes, and those of drawing other
    images for all else.
    """
    # Imported here: with it comes matplotlib, which takes a second.
    from vtp_eqx.evaluation.latent_picture import NUM_PICTURED, save_picture

    if masks is not None:
        require(
            len(masks) == len(images.source),
            f"`masks` ({len(masks)}) must be one for each of the {len(images.source)} "
            "images: write them in the order of the images.",
        )
    seen = extract_features(probed_latents, tokenizer, images, place, stage="latents")
    latents, rows = seen.column("latents"), seen.column("row")
    diagnosis = diagnose_latents(
        latents,
        np.asarray(tokenizer.latent_mean) if tokenizer.is_measured else None,
        np.asarray(tokenizer.latent_std) if tokenizer.is_measured else None,
        labels=_labels(seen),
        masks=None if masks is None else masks[rows].astype(bool),
    )
    panel = {"PSNR": ratio(seen.column("PSNR")), **diagnosis.panel}
    omitted = dict(diagnosis.omitted)
    for name in TRANSFORMS:
        if seen.has(f"{name} error"):
            panel[f"equivariance error, {name}"] = equivariance_error(
                name, seen.column(f"{name} error"), latents, diagnosis.deviation
            )
        else:
            omitted[f"equivariance error, {name}"] = "the sides of the grid are odd"
    if network is not None and network.image_size not in (None, images.crop.size):
        omitted["LPC features"] = (
            f"the {network.name} reads images of {network.image_size} pixels"
        )
        network = None
    place.report("decoder continuity", 0, 1)
    spread = np.unique(np.arange(NUM_IMAGES) * len(latents) // NUM_IMAGES)
    models = Continuity(tokenizer.decode, network, perceptual)
    chosen = latents[spread]
    distances = continuity(models, chosen, diagnosis.mean, diagnosis.deviation)
    for name, estimate in distances.items():
        panel[f"LPC {name}"] = estimate
    place.report("decoder continuity", 1, 1)
    diagnosis = dataclasses.replace(diagnosis, panel=panel, omitted=omitted)
    height, width, _ = diagnosis.latents.shape[1:]
    protocol = settings(
        version=VERSION,
        latents=f"{height} x {width} x {tokenizer.config.latent_width}",
        standardized="as for generators" if tokenizer.is_measured else "by themselves",
        perceptual="" if perceptual is None else perceptual.hash,
        notes="; ".join(diagnosis.notes),
        omitted="; ".join(f"{name}: {why}" for name, why in omitted.items()),
    )
    card = tokenizer_card(tokenizer, seen, images, protocol, network=network)
    write_numbers(flat_numbers(panel), card, seen, place, "diagnosis")
    pictured = np.arange(NUM_PICTURED) * len(latents) // NUM_PICTURED
    squares = [read_square(images, int(row)).image for row in rows[pictured]]
    readable = np.stack([square for square in squares if square is not None])
    save_picture(diagnosis, pictured, readable, place.folder / PICTURE)
    return diagnosis


def _labels(seen: FeatureTable) -> Int[np.ndarray, " count"] | None:
    """The classes, or `None` where an image has none."""
    labels = seen.labels_or_none()
    return None if (labels == NO_LABEL).any() else labels


def better(name: str) -> str:
    """In which direction generators did better, "lower" or "higher"; "" if unknown."""
    return next((way for start, way in BETTER.items() if name.startswith(start)), "")
