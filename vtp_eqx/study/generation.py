"""A generator's samples, and what they have in common with real images."""

from collections.abc import Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, Int, UInt8
import numpy as np

from vtp_eqx.config import GenerateConfig
from vtp_eqx.evaluation.batches import as_bytes, in_batches
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig, Report
from vtp_eqx.evaluation.flow_paths import held_out_flow_loss, path_shapes
from vtp_eqx.evaluation.frechet import (
    class_frechet_distance,
    frechet_distance,
    Moments,
)
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.latent_covariance import gaussian_flow_loss
from vtp_eqx.evaluation.memorization import coarse_pixels, copy_distance, copy_ratio
from vtp_eqx.evaluation.mind import mind
from vtp_eqx.evaluation.networks import (
    FeatureNetwork,
    network_outputs,
    scene_features,
)
from vtp_eqx.evaluation.precision_recall import neighborhood_scores
from vtp_eqx.evaluation.scene_metrics import SceneSet
from vtp_eqx.files import write_text
from vtp_eqx.models.arrays import arrays_hash, latents_hash
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.study.dataset import DataKind, Dataset
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.scene_kind import Labels


BATCH = 240
CLASS_DISTANCE = "FD-classes"
# Of how `near` and `floors` of a reference are computed: raise it where that changes.
REFERENCE_VERSION = 2
COLUMNS = 12  # of a grid of samples
IN_A_GRID = 4 * COLUMNS  # samples, where there are no more classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What samples are compared with, of data of a `kind`.

    `real` are the validation images, with `attributes`, and `rebuilt` their
    reconstructions. `training` has the features and the coarse pixels of all training
    images, and `near` the `copy_distance` of either. `floors` is what `compare_sets`
    and the kind say of as many training images as there are samples, since a distance
    falls with their number, and one of each group, because those of a group resemble
    one another.
    """

    kind: DataKind
    real: SceneSet
    rebuilt: SceneSet
    attributes: Mapping[str, Int[np.ndarray, " num"]]
    training: Mapping[str, Float[np.ndarray, "train _"]]
    near: Mapping[str, float]
    floors: Mapping[str, float]

    @classmethod
    def of(
        cls,
        kind: DataKind,
        data: Dataset,
        training: SceneSet,
        real: SceneSet,
        rebuilt: SceneSet,
        num_samples: int,
        folder: Path,
    ) -> "Reference":
        """That of a tokenizer whose reconstructions of the `real` images are `rebuilt`.

        `training` are all training images. `near` and `floors`, in which no tokenizer
        has a part, are kept in the `folder` of the data: all runs on it share them.
        """
        rows = {
            "features": (training.features, real.features),
            "pixels": tuple(
                coarse_pixels(split.image) for split in (data.train, data.validation)
            ),
        }
        arrays = {
            f"{split} {name}": pair[split]
            for name, pair in {**rows, "labels": (training.labels, real.labels)}.items()
            for split in (0, 1)
        }
        key = f"{REFERENCE_VERSION}-{num_samples}-{arrays_hash(arrays)}"
        kept = folder / f"reference-{key}.json"
        if not kept.exists():
            near = {name: copy_distance(*pair) for name, pair in rows.items()}
            others = training[floor_rows(kind, num_samples)]
            floors = compare_sets(others, real)
            floors |= kind.sample_numbers(others, real, data.validation.attributes)
            numbers = {"near": near, "floors": floors}
            write_text(kept, json.dumps(numbers, indent=1) + "\n")
        return cls(
            kind=kind,
            real=real,
            rebuilt=rebuilt,
            attributes=data.validation.attributes,
            training={name: pair[0] for name, pair in rows.items()},
            # As JSON has them, numbers are equal to the last bit.
            **json.loads(kept.read_text()),
        )


def floor_rows(kind: DataKind, num_samples: int) -> slice:
    """The training images whose distance to real images is the floor of `Reference`."""
    return slice(0, num_samples * kind.group, kind.group)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassDistance:
    """FD-classes: a Fréchet distance in features that were learned of classes alone.

    FID is taken in features of Inception, which was trained to tell the classes that
    generators are asked for, and nothing else. FD-scenes is not: its network was
    trained on every attribute. This distance is, so that both can be read beside one
    another. `real` are the moments of the validation images, and `floor` is as of other
    distances: see `Reference`.
    """

    network: FeatureNetwork
    real: Moments
    floor: float

    @classmethod
    def of(
        cls, kind: DataKind, data: Dataset, num_samples: int, folder: Path
    ) -> "ClassDistance | None":
        """That of a data set; features are kept in its `folder`, for all runs on it.

        `None` where data of this `kind` have no such network.
        """
        if kind.class_network is None:
            return None
        network = scene_features(kind.class_network)
        place = ExtractConfig(folder=folder, batch_size=BATCH, mesh=None)
        others, real = (
            extract_features(network_outputs, network, Images.of(images), place)
            .moments("features")
            for images in (
                data.train.image[floor_rows(kind, num_samples)],
                data.validation.image,
            )
        )  # fmt: skip
        return cls(network=network, real=real, floor=frechet_distance(others, real))

    def to(self, images: UInt8[np.ndarray, "count size size 3"]) -> float:
        """The distance of samples to the validation images."""
        outputs = in_batches(network_outputs, self.network, images, batch_size=BATCH)
        return frechet_distance(Moments.of(outputs["features"]), self.real)


def draw_samples(
    spec: RunSpec,
    tokenizer: Tokenizer,
    generator: Generator,
    labels: Int[np.ndarray, " num"],
    report: Report,
) -> tuple[UInt8[np.ndarray, "num height width 3"], dict[str, float]]:
    """One image of the generator for each label, as bytes, and means of `path_shapes`.

    Takes a solver whose steps are the same for all.
    """
    # Training splits the key of this seed in two: a folded key is neither of those.
    key, parts, shapes = jr.fold_in(jr.key(spec.generate.seed), 2), [], []
    of = latents_hash(tokenizer)
    for start in range(0, len(labels), BATCH):
        batch = labels[start : start + BATCH]
        full = jnp.asarray(batch[np.arange(BATCH) % len(batch)])
        points = generator.trajectory(
            full, spec.sampler, latents_hash=of, key=jr.fold_in(key, start)
        )
        path = np.asarray(points)[:, : len(batch)]
        shapes.append(path_shapes(path))
        parts.append(path[-1])
        report("sampling", start + len(batch), len(labels))
    images = in_batches(_decode, tokenizer, np.concatenate(parts), batch_size=BATCH)
    straight = {
        name: float(np.mean(np.concatenate([shape[name] for shape in shapes])))
        for name in shapes[0]
    }
    return as_bytes(images), straight


def flow_losses(
    config: GenerateConfig,
    tokenizer: Tokenizer,
    latents: Float[np.ndarray, "num height width channels"],
    labels: Int[np.ndarray, " num"],
    generators: Mapping[int, Generator],
) -> dict[int, dict[str, float]]:
    """The flow loss of held-out raw `latents`, by the generator's steps.

    And by how much it exceeds `gaussian_flow_loss` of the same latents.
    """
    normalized = np.asarray(tokenizer.normalize_latents(jnp.asarray(latents)))
    tokens = normalized.reshape(len(latents), -1, normalized.shape[-1])
    times = (config.time_mean, config.time_std)
    bound = gaussian_flow_loss(tokens, labels, times=times)
    # Another key than those of samples and of training.
    key, losses = jr.fold_in(jr.key(config.seed), 3), {}
    for steps, generator in generators.items():
        loss = held_out_flow_loss(
            generator.dit, normalized, labels, times=times, key=key
        )
        losses[steps] = {"flow loss": loss, "excess flow loss": loss - bound}
    return losses


def reference_numbers(reference: Reference, condition: Labels) -> dict[str, float]:
    """Bounds of the numbers of samples: those of images that no generator made.

    `compare_sets` of other real images, as "FD(train, validation)" and so on: the floor
    of a distance; and the accuracy of held-out images and of their reconstructions.
    """
    floors = reference.floors
    numbers = {f"{name}(train, validation)": floors[name] for name in floors}
    for of, images in (
        ("real images", reference.real), ("reconstructions", reference.rebuilt)
    ):  # fmt: skip
        right = reference.kind.accuracy(images.reading, images.labels, condition)
        numbers |= {f"{name} in {of}": right[name] for name in right}
    return numbers


def compare_sets(images: SceneSet, real: SceneSet) -> dict[str, float]:
    """FD and MIND to real images; precision, recall, density and coverage.

    The latter four of equal counts, the first images of the larger set. "FD per class"
    where there is more than one class, and both sets have two images of each or more.
    """
    count = min(len(images.features), len(real.features))
    numbers = {
        "FD": frechet_distance(images.moments, real.moments),
        "MIND": mind(images.projections, real.projections),
        **neighborhood_scores(real.features[:count], images.features[:count]),
    }
    most = max(real.labels.max(), images.labels.max()) + 1
    counts = [np.bincount(of.labels, minlength=most) for of in (images, real)]
    if most > 1 and np.min(counts) > 1:
        numbers["FD per class"] = class_frechet_distance(
            real.features, real.labels, images.features, images.labels
        )
    return numbers


def generation_numbers(
    samples: SceneSet,
    images: UInt8[np.ndarray, "num height width 3"],
    reference: Reference,
    condition: Labels,
) -> dict[str, float]:
    """Distances of samples to real images and to reconstructions, and their accuracy.

    `compare_sets` of samples and real images, its FD under the name of the kind; what
    that kind alone has; and accuracies, "normalized" over those of reconstructions by
    the same tokenizer, whose decoder may blur what the network looks for.
    "memorization" is the `copy_ratio` of features and of the pixels of the samples'
    `images`.
    """
    kind, real, rebuilt = reference.kind, reference.real, reference.rebuilt
    scores = compare_sets(samples, real)
    rows = {"features": samples.features, "pixels": coarse_pixels(images)}
    accuracy, oracle = (
        kind.accuracy(one.reading, one.labels, condition) for one in (samples, rebuilt)
    )
    return {
        kind.distance: scores.pop("FD"),
        "FD(samples, reconstructions)": frechet_distance(
            samples.moments, rebuilt.moments
        ),
        **scores,
        **accuracy,
        **{
            f"{name}, normalized": accuracy[name] / oracle[name]
            for name in accuracy
            if oracle[name] > 0
        },
        **{
            f"memorization, {name}": copy_ratio(
                reference.training[name], rows[name], reference.near[name]
            )
            for name in rows
        },
        **kind.sample_numbers(samples, real, reference.attributes),
    }


def by_label(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A grid of samples in the order of their labels, as many of each."""
    classes = int(labels.max()) + 1
    each = max(1, IN_A_GRID // classes)
    rows = [np.flatnonzero(labels == label)[:each] for label in range(classes)]
    return images[np.concatenate(rows)]


def _decode(tokenizer: Tokenizer, latents: Any) -> Any:
    return tokenizer.decode(tokenizer.denormalize_latents(latents))
