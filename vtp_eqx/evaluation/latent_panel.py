"""All that can be measured of arrays of latents, with intervals, and why not the rest.

Latents are standardized by channel, with the statistics that generators use where they
are given, else with their own. Channels that hardly vary are left out and counted.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.intervals import Estimate, ratio, share
from vtp_eqx.evaluation.latent_covariance import (
    can_be_exact,
    class_covariances,
    FEW,
    MIN_CLASS,
    participation_ratio,
    Spectrum,
    spectrum,
    velocity_variance,
)
from vtp_eqx.evaluation.latent_structure import (
    cell_masks,
    cosine_profile,
    energy_maps,
    far_distance,
    is_high_frequency,
    Latents,
    local_correlation,
    local_distance_similarity,
    neighbor_shares,
    object_similarity,
    pooled,
    quarters,
)
from vtp_eqx.evaluation.linear_probe import linear_probe
from vtp_eqx.losses.latents import smoothness_loss


MIN_IMAGES = 40  # ours: below which nothing is measured
DEAD = 1e-4  # ours: of the median deviation, below which a channel is left out
# LightningDiT's times of training (2501.01423): logit-normal.
TIMES = (0.0, 1.0)
TEST_SHARE = 4  # ours: one image of so many tests the probe
MAX_PROBED = 4096  # ours: numbers an image, beyond which only their mean is probed


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The numbers by name, those left out with reasons, and notes.

    `mean` and `deviation` of each channel standardized the latents; a deviation of 0 is
    that of a channel that was left out. And what the picture shows: those latents,
    their spectra by what they are over, the mean energy of a number by frequency, and
    the mean cosine of two cells of an image by distance (no curves where latents have
    one cell).
    """

    panel: dict[str, Estimate]
    omitted: dict[str, str]
    notes: tuple[str, ...]
    mean: Float[np.ndarray, " all_channels"]
    deviation: Float[np.ndarray, " all_channels"]
    latents: Latents
    spectra: dict[str, Spectrum]
    energy: Float[np.ndarray, " frequencies"] | None
    similarity: dict[str, Float[np.ndarray, " distances"]]


def diagnose_latents(
    latents: Latents,
    mean: Float[np.ndarray, " channels"] | None = None,
    deviation: Float[np.ndarray, " channels"] | None = None,
    *,
    labels: Int[np.ndarray, " count"] | None = None,
    masks: Bool[np.ndarray, "count rows columns"] | None = None,
) -> Diagnosis:
    """All that can be measured of raw latents alone.

    They are standardized by `mean` and `deviation`, by default their own. What needs
    `labels`, of two classes or more, or `masks` of the foreground is left out without
    them. A `ValueError` where a latent is not finite or there are too few images.
    """
    mean, deviation = _statistics(latents, mean, deviation)
    alive = deviation > 0
    standardized = (latents[..., alive] - mean[alive]) / deviation[alive]
    standardized = standardized.astype(np.float32)
    notes = []
    if not alive.all():
        notes.append(f"{int((~alive).sum())} channels that hardly vary are left out")
    panel, omitted = {}, {}
    if labels is None:
        omitted["what needs labels"] = "the images have none"
    elif not 2 <= len(np.unique(labels)) <= len(labels) // 2:
        omitted["what needs labels"] = (
            f"{len(labels)} images have {len(np.unique(labels))} classes"
        )
        labels = None
    spectra = _covariance_measures(standardized, labels, panel, omitted, notes)
    energy, similarity = _grid_measures(
        latents[..., alive], standardized, panel, omitted
    )
    grid = None
    if masks is None:
        omitted["what needs masks"] = "none were given"
    else:
        grid = cell_masks(masks, *latents.shape[1:3])
        by_image = object_similarity(standardized, grid)
        if np.isfinite(by_image).any():
            panel["SRSS"] = ratio(by_image)
        else:
            omitted["SRSS"] = "no object has background that is far from it"
    if labels is not None:
        _label_measures(standardized, labels, grid, panel)
    return Diagnosis(
        panel, omitted, tuple(notes), mean, deviation, standardized, spectra, energy,
        similarity,
    )  # fmt: skip


def _statistics(
    latents: Latents,
    mean: Float[np.ndarray, " channels"] | None,
    deviation: Float[np.ndarray, " channels"] | None,
) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, " channels"]]:
    """What standardizes `latents`: what is given, or else their own, once checked.

    The deviation of a channel that hardly varies is 0.
    """
    bad = int((~np.isfinite(latents)).any(axis=(1, 2, 3)).sum())
    require(
        bad == 0,
        f"`latents` ({bad} of {len(latents)} images have NaN or infinity) must be "
        "finite: look at the weights, or at those images.",
    )
    require(
        len(latents) >= MIN_IMAGES,
        f"`latents` ({len(latents)} images) must be of {MIN_IMAGES} or more: add some; "
        "4,000 give narrow intervals.",
    )
    own_mean = latents.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    own_deviation = latents.std(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)
    center = own_mean if mean is None else mean
    scale = own_deviation if deviation is None else deviation
    # Beside their mean, float32 does not show smaller deviations.
    varies = own_deviation > 1e-6 * np.abs(own_mean)
    require(
        bool(varies.any()),
        "`latents` (deviation 0 in every channel) must vary: this encoder ignores its "
        "images.",
    )
    is_alive = varies & (scale > DEAD * np.median(scale))
    return center, np.where(is_alive, scale, 0).astype(np.float32)


def _covariance_measures(
    latents: Latents,
    labels: Int[np.ndarray, " count"] | None,
    panel: dict[str, Estimate],
    omitted: dict[str, str],
    notes: list[str],
) -> dict[str, Spectrum]:
    count, height, width, channels = latents.shape
    tokens = latents.reshape(count, height * width, channels)
    is_exact = can_be_exact(tokens, count)
    spectra = {"all images": spectrum(tokens, is_exact=is_exact)}
    if labels is not None:
        classes = class_covariances(tokens, labels)
        if classes is None:
            omitted["VIV"] = (
                f"no class has the {MIN_CLASS} images that it takes, or more"
            )
        else:
            panel |= classes.panel()
            root = float(np.sqrt(height * width * channels))
            panel["VIV * sqrt(d)"] = panel["VIV"].scaled(root)
            if classes.exact is None:
                omitted["VIV exact"] = (
                    "a class takes 2 images for each number of a latent, and no more "
                    "than 2,048 numbers"
                )
            if classes.least < FEW:
                notes.append(f"VIV: a class has only {classes.least} images")
        within = spectrum(tokens, labels, is_exact=False)
        panel["VIV, classes pooled"] = within.estimate(velocity_variance)
        if is_exact:
            within = spectrum(tokens, labels, is_exact=True)
            panel["VIV exact, classes pooled"] = within.estimate(velocity_variance)
        spectra["within classes"] = within
    # The lowest loss of a flow model that knows the covariance, and at most the class.
    flow_loss = functools.partial(velocity_variance, times=TIMES)
    for name, eigenvalues in spectra.items():
        given = ", class known" if name == "within classes" else ""
        panel[f"Gaussian flow loss{given}"] = eigenvalues.estimate(flow_loss)
    panel["effective rank"] = spectra["all images"].estimate(participation_ratio)
    covariance = "full" if is_exact else "a product of positions and channels"
    notes.append(f"covariance of all images: {covariance}")
    return spectra


def _grid_measures(
    raw: Latents,
    standardized: Latents,
    panel: dict[str, Estimate],
    omitted: dict[str, str],
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    height, width = raw.shape[1:3]
    if height * width == 1:
        omitted["what needs a grid"] = "latents have one cell"
        return None, {}
    energy = energy_maps(standardized - standardized.mean(axis=(0, 1, 2)))
    total = energy.sum(axis=(1, 2))
    for part in (0.25, 0.5):
        is_high = is_high_frequency(height, width, part)
        estimate = ratio(energy[:, is_high].sum(axis=1), total)
        panel[f"SEC {part}"] = estimate
        panel[f"SEC {part} over white noise"] = estimate.scaled(1 / is_high.mean())
    profiles = {
        "raw": cosine_profile(raw, centered=False),
        "centered": cosine_profile(standardized, centered=True),
    }
    for kind, profile in profiles.items():
        for cells, near, far in (
            ("halves", (height + width) / 4, (height + width) / 4),
            ("4 neighbors", 2, far_distance(height, width)),
        ):
            values = local_distance_similarity(
                profile, height, width, near=near, far=far
            )
            name = f"LDS {cells}, {kind}"
            halves = panel.get(f"LDS halves, {kind}")
            estimate = None if values is None else ratio(values)
            if estimate is None:
                omitted[name] = f"{height} x {width} cells are too few"
            elif estimate == halves:
                omitted[name] = "on this grid it is that of halves"
            else:
                panel[name] = estimate
    if min(height, width) >= 2:
        panel["local correlation"] = ratio(local_correlation(standardized))
        panel["Geary's C"] = ratio(np.asarray(smoothness_loss(jnp.asarray(raw))))
    steps = np.add.outer(np.arange(height), np.arange(width)).ravel()
    by_frequency = np.bincount(steps, energy.mean(axis=0).ravel()) / np.bincount(steps)
    means = {kind: profile.mean(axis=0) for kind, profile in profiles.items()}
    return by_frequency / raw.shape[-1], means


def _label_measures(
    latents: Latents,
    labels: Int[np.ndarray, " count"],
    foreground: Bool[np.ndarray, "count height width"] | None,
    panel: dict[str, Estimate],
) -> None:
    rows = {"": pooled(latents)}
    if min(latents.shape[1:3]) >= 2 and not any(s % 2 for s in latents.shape[1:3]):
        rows[", quarters"] = quarters(latents)
    if foreground is not None:
        rows[", foreground"] = pooled(latents, foreground)
    for kind, vectors in rows.items():
        for among in (1, 10):
            same, chance = neighbor_shares(vectors, labels, among)
            panel[f"LNC@{among} over chance{kind}"] = ratio(same - chance, 1 - chance)
    order = np.random.default_rng(0).permutation(len(latents))
    test, train = np.split(order, [len(order) // TEST_SHARE])
    probed = {"mean latents": rows[""]}
    if latents[0].size <= MAX_PROBED:
        probed["latents"] = latents.reshape(len(latents), -1)
    for kind, vectors in probed.items():
        accuracy = linear_probe(
            vectors[train], labels[train], vectors[test], labels[test]
        )
        panel[f"linear probe, {kind}"] = share(accuracy, len(test))
