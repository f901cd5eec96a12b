"""All measurements of one run, with cards and pictures."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from pathlib import Path
import time

import jax.numpy as jnp
from jaxtyping import Float, UInt8
import numpy as np

from vtp_eqx.config import short_hash
from vtp_eqx.evaluation.batches import BYTES, encode_images, reconstruct_images
from vtp_eqx.evaluation.card import EvaluationCard, write
from vtp_eqx.evaluation.extract import (
    BatchConfig,
    extract_features,
    ExtractConfig,
    Report,
)
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import last_block, probe_attributes
from vtp_eqx.evaluation.networks import FeatureNetwork, network_outputs
from vtp_eqx.evaluation.reconstruction import (
    compare,
    MeasuredTokenizer,
    reconstruction_numbers,
)
from vtp_eqx.evaluation.scene_metrics import read_scenes, SceneSet
from vtp_eqx.evaluation.zero_shot import embed, embed_prompts, zero_shot_accuracy
from vtp_eqx.files import write_text
from vtp_eqx.frozen.scene_network import scene_network_hash
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.generator import Generator, generator_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import Dataset
from vtp_eqx.study.generation import (
    BATCH,
    by_label,
    CLASS_DISTANCE,
    ClassDistance,
    COLUMNS,
    draw_samples,
    floor_rows,
    flow_losses,
    generation_numbers,
    Reference,
    reference_numbers,
)
from vtp_eqx.study.run_spec import RunPaths, RunSpec
from vtp_eqx.study.scene_kind import Labels


PROBE_IMAGES = 4000  # training images that probes are fitted to
IN_MEMORY = BatchConfig(batch_size=BATCH, mesh=None)
PAIRS = 16  # of images and their reconstructions in a grid, in two rows
# The feature network of results that do not name theirs.
FIRST_NETWORK = "0acc6316b4492e63c760e2dbc23ad4635866318c40c22b66fbf97ec1e3bab9bd"


class RecordsError(ValueError):
    """A file is no result of a run, or no `runs.json` of a report."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """The numbers of a run by name; what code measured them, when, with what network.

    `feature_hash` is the hash of that network, and `class_hash` that of the network of
    FD-classes, "" where that was not measured. What depends on the generator is there
    once for each budget, as "FD-scenes @2000", and once more for the last one,
    as "FD-scenes".
    """

    numbers: dict[str, float]
    commit: str
    date: str
    feature_hash: str = FIRST_NETWORK
    class_hash: str = ""

    @classmethod
    def read(cls, paths: RunPaths, spec: RunSpec) -> "RunResult | None":
        """The `comparable` result of `spec` in its folder, or `None` without one.

        Raises `RecordsError` where it cannot be read.
        """
        path = paths.result(spec) / "result.json"
        if not path.exists():
            return None
        try:
            result = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise RecordsError(
                f"`runs` ({path}) must be whole and of this version ({error}): remove "
                "that file, and the run is measured again."
            ) from error
        return result.comparable(paths, spec)

    def comparable(self, paths: RunPaths, spec: RunSpec) -> "RunResult | None":
        """The numbers of it that are comparable with those of runs measured now.

        Distances of two networks have two scales: `None` where another network read
        the samples, and without FD-classes where those are of another network.
        """
        if self.feature_hash != spec.kind.network_hash(paths.data(spec)):
            return None
        of_classes = spec.kind.class_network
        if of_classes and self.class_hash == scene_network_hash(of_classes):
            return self
        numbers = {
            name: value
            for name, value in self.numbers.items()
            if not name.startswith(CLASS_DISTANCE)
        }
        return dataclasses.replace(self, numbers=numbers)

    def write(self, folder: Path) -> None:
        """Marks the run as finished."""
        fields = json.dumps(dataclasses.asdict(self), indent=1)
        write_text(folder / "result.json", fields + "\n")


def at_budget(name: str, steps: int) -> str:
    """The name of a number after `steps` of the generator's training."""
    return f"{name} @{steps}"


def measure(
    spec: RunSpec,
    tokenizer: Tokenizer,
    generators: Mapping[int, Generator],
    data: Dataset,
    paths: RunPaths,
    report: Report,
    known: Mapping[str, float],
) -> RunResult:
    """Measures a run, and leaves numbers, cards and pictures in its folder.

    `known` are numbers from its training, to which the measured ones are added.
    """
    folder, kind = paths.result(spec), spec.kind
    network = kind.network(paths.data(spec))
    images = data.validation.image
    of_rebuilt, real, rebuilt = measure_reconstructions(
        network, tokenizer, data, spec.labels
    )
    latents = encode_images(tokenizer, images, batch_size=BATCH)
    training = training_images(network, data, paths.data(spec), spec.labels)
    reference = Reference.of(
        kind, data, training, real, rebuilt, spec.num_samples, paths.data(spec)
    )
    rows = floor_rows(kind, spec.num_samples)
    empirical = empirical_distance(network, tokenizer, data.train.image[rows], real)
    classes = ClassDistance.of(kind, data, spec.num_samples, paths.data(spec))
    numbers = {
        **known,
        **of_rebuilt,
        "FD(training reconstructions, validation)": empirical,
        "Geary's C": float(jnp.mean(smoothness_loss(jnp.asarray(latents)))),
        **reference_numbers(reference, spec.labels),
        **probe_numbers(tokenizer, data, latents, kind.probed),
        **zero_shot_numbers(tokenizer, data),
    }
    if classes is not None:
        numbers[f"{CLASS_DISTANCE}(train, validation)"] = classes.floor
    card = EvaluationCard(
        num_samples=len(images),
        num_reference=len(images),
        reference_hash=short_hash(spec.data),
        tokenizer_hash=weights_hash(tokenizer),
        latents_hash=latents_hash(tokenizer),
        precision="float32",
        feature_network=network.name,
        feature_hash=network.hash,
        feature_origin=network.origin,
        protocol=BYTES,
    )
    write(folder / "card_reconstruction.json", numbers, card, num_evaluated=len(images))
    labels = kind.sample_labels(
        data.train.labels(spec.labels), spec.num_samples, spec.labels
    )
    is_balanced = np.ptp(np.bincount(labels)) <= 1
    losses = flow_losses(
        spec.generate, tokenizer, latents, data.validation.labels(spec.labels),
        generators,
    )  # fmt: skip
    for steps in spec.budgets:
        generator = generators[steps]
        samples, straight = draw_samples(spec, tokenizer, generator, labels, report)
        reading = SceneSet(read_scenes(network.model, samples), labels)
        generated = {
            **generation_numbers(reading, samples, reference, spec.labels),
            **straight,
            **losses[steps],
        }
        generated["modeling gap"] = generated[kind.distance] - empirical
        if classes is not None:
            generated[CLASS_DISTANCE] = classes.to(samples)
        numbers |= {at_budget(name, steps): generated[name] for name in generated}
        if steps == spec.budgets[-1]:
            numbers |= generated
        generating = dataclasses.replace(
            card,
            num_samples=spec.num_samples,
            sampler=spec.sampler,
            labels="balanced" if is_balanced else "given",
            generator_hash=generator_hash(generator),
            generator_latents_hash=generator.latents_hash,
            seed=spec.generate.seed,
        )
        path = folder / f"card_generation_{steps}.json"
        write(path, generated, generating, num_evaluated=len(samples))
        save_grid(by_label(samples, labels), folder / f"samples_{steps}.png", COLUMNS)
    chosen = np.arange(PAIRS) * (len(images) // PAIRS)
    again = reconstruct_images(tokenizer, images[chosen], batch_size=BATCH)
    pairs = np.stack([images[chosen], again], axis=1)
    pairs = pairs.reshape(-1, *images.shape[1:])
    save_grid(pairs, folder / "reconstructions.png", PAIRS)
    result = RunResult(
        numbers=numbers,
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        feature_hash=card.feature_hash,
        class_hash="" if classes is None else classes.network.hash,
    )
    result.write(folder)
    return result


def measure_reconstructions(
    network: FeatureNetwork,
    tokenizer: Tokenizer,
    data: Dataset,
    condition: Labels = "class",
) -> tuple[dict[str, float], SceneSet, SceneSet]:
    """PSNR in dB, SSIM and FD of reconstructions of the validation images.

    And as the network reads them: the images, and their reconstructions.
    """
    models = MeasuredTokenizer(tokenizer, network)
    images = Images.of(data.validation.image)
    seen = extract_features(compare, models, images, IN_MEMORY)
    real, rebuilt = (
        SceneSet.of(network.model, seen.column(name), data.validation.labels(condition))
        for name in ("real features", "features")
    )
    return reconstruction_numbers(seen, models), real, rebuilt


def empirical_distance(
    network: FeatureNetwork,
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    real: SceneSet,
) -> float:
    """FD to `real` images of reconstructions of training `images`.

    What the distance of samples exceeds it by is the modeling gap: a decoder's part is
    in both, and neither has the images of `real`.
    """
    again = reconstruct_images(tokenizer, images, batch_size=BATCH)
    reading = read_scenes(network.model, again)
    return frechet_distance(Moments.of(np.asarray(reading.features)), real.moments)


def training_images(
    network: FeatureNetwork, data: Dataset, folder: Path, condition: Labels
) -> SceneSet:
    """All training images; their features are kept in the `folder` of the data.

    All runs on the same data share them.
    """
    place = ExtractConfig(folder=folder, batch_size=BATCH, mesh=None)
    images = Images.of(data.train.image)
    seen = extract_features(network_outputs, network, images, place)
    labels = data.train.labels(condition)
    return SceneSet.of(network.model, seen.column("features"), labels)


def probe_numbers(
    tokenizer: Tokenizer,
    data: Dataset,
    latents: Float[np.ndarray, "num rows columns channels"],
    names: Sequence[str],
) -> dict[str, float]:
    """Accuracies of linear probes of features and of latents, for some attributes.

    `latents` are those of the validation images.
    """
    train, test = data.train.image[:PROBE_IMAGES], data.validation.image
    fitted = encode_images(tokenizer, train, batch_size=BATCH)
    rows = {
        "features": [
            extract_features(last_block, tokenizer, Images.of(images), IN_MEMORY)
            .column("1 blocks")
            for images in (train, test)
        ],
        "latents": [grid.mean(axis=(1, 2)) for grid in (fitted, latents)],
    }  # fmt: skip
    labels = {name: data.train.attributes[name][:PROBE_IMAGES] for name in names}
    answers = {name: data.validation.attributes[name] for name in names}
    numbers = {}
    for of, (of_train, of_test) in rows.items():
        accuracy = probe_attributes(of_train, labels, of_test, answers)
        numbers |= {f"probe {of} {name}": accuracy[name] for name in accuracy}
    return numbers


def zero_shot_numbers(tokenizer: Tokenizer, data: Dataset) -> dict[str, float]:
    """Accuracies of zero-shot attributes, where there is text."""
    if tokenizer.config.text is None:
        return {}
    context, numbers = tokenizer.config.text.context, {}
    test = Images.of(data.validation.image)
    embeddings = extract_features(embed, tokenizer, test, IN_MEMORY).column("embedding")
    for name, texts in data.prompts.items():
        ids = [data.words.encode(of, context, truncate=True) for of in texts]
        numbers[f"zero-shot {name}"] = zero_shot_accuracy(
            embeddings,
            data.validation.attributes[name],
            embed_prompts(tokenizer, np.stack(ids), batch_size=BATCH),
        )
    return numbers
