"""All measurements of one run, with cards and pictures."""

from collections.abc import Mapping
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
from vtp_eqx.evaluation.extract import BatchConfig, extract_features, ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import last_block, probe_attributes
from vtp_eqx.evaluation.networks import (
    FeatureNetwork,
    network_outputs,
    scene_features,
)
from vtp_eqx.evaluation.reconstruction import (
    compare,
    MeasuredTokenizer,
    reconstruction_numbers,
)
from vtp_eqx.evaluation.scene_metrics import predictions, read_scenes, SceneSet
from vtp_eqx.evaluation.zero_shot import embed, embed_prompts, zero_shot_accuracy
from vtp_eqx.files import write_text
from vtp_eqx.frozen.scene_network import scene_network_hash, shipped
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.generator import Generator, generator_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.scenes.captions import COLORS, NAMES, prompts
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.class_distance import ClassDistance, NAME as CLASS_DISTANCE
from vtp_eqx.study.dataset import Dataset
from vtp_eqx.study.generation import (
    by_label,
    draw_samples,
    flow_losses,
    generation_numbers,
    Reference,
    reference_numbers,
    Report,
)
from vtp_eqx.study.run_spec import Labels, RunPaths, RunSpec


PROBE_IMAGES = 4000  # training images that probes are fitted to
PROMPTS = 64  # captions averaged for one class embedding; CLIP has 80
BATCH = 240
IN_MEMORY = BatchConfig(batch_size=BATCH, mesh=None)
PAIRS = 16  # of scenes and their reconstructions in a grid, in two rows
# The attributes that probes and zero-shot are asked for.
PROBED = ("shape", "color", "position")
# The feature network of results that do not name theirs.
FIRST_NETWORK = "0acc6316b4492e63c760e2dbc23ad4635866318c40c22b66fbf97ec1e3bab9bd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """The numbers of a run by name; what code measured them, when, with what network.

    `feature_hash` is the hash of the scene network, and `class_hash` that of the
    network of FD-classes, "" where that was not measured. What depends on the generator
    is there once for each budget, as "FD-scenes @2000", and once more for the last one,
    as "FD-scenes".
    """

    numbers: dict[str, float]
    commit: str
    date: str
    feature_hash: str = FIRST_NETWORK
    class_hash: str = ""

    @classmethod
    def read(cls, folder: Path, spec: RunSpec) -> "RunResult | None":
        """The result of `spec` in its folder, or `None` where it is not finished."""
        path = folder / "result.json"
        if not path.exists():
            return None
        result = cls(**json.loads(path.read_text()))
        return result if result.is_comparable(spec) else None

    def is_comparable(self, spec: RunSpec) -> bool:
        """Whether it was measured with the network that is shipped for these scenes.

        Distances of two networks have two scales.
        """
        return self.feature_hash == scene_network_hash(shipped(spec.data.size))

    def write(self, folder: Path) -> None:
        """Marks the run as finished."""
        fields = json.dumps(dataclasses.asdict(self), indent=1)
        write_text(folder / "result.json", fields + "\n")


def at_budget(name: str, steps: int) -> str:
    """The name of a number after `steps` of the generator's training."""
    return f"{name} @{steps}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Reconstructions of the validation images, and their numbers.

    `scenes` are they and `real` the images themselves, as the scene network reads them.
    """

    image: UInt8[np.ndarray, "num height width 3"]
    numbers: dict[str, float]
    scenes: SceneSet
    real: SceneSet


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

    `known` are numbers of its training, which the result has too.
    """
    folder = paths.result(spec)
    network = scene_features(shipped(spec.data.size))
    images = data.validation.image
    rebuilt = measure_reconstructions(network, tokenizer, data, spec.labels)
    latents = encode_images(tokenizer, images, batch_size=BATCH)
    training = training_scenes(network, data, paths.data(spec), spec.labels)
    reference = Reference.of(
        data, training, rebuilt.real, rebuilt.scenes, spec.num_samples, paths.data(spec)
    )
    classes = ClassDistance.of(data, spec.num_samples, paths.data(spec))
    numbers = {
        **known,
        **rebuilt.numbers,
        "Geary's C": float(jnp.mean(smoothness_loss(jnp.asarray(latents)))),
        **reference_numbers(reference, spec.labels),
        **probe_numbers(tokenizer, data, latents),
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
    labels = np.arange(spec.num_samples) % spec.generate.dit.num_classes
    losses = flow_losses(
        spec.generate, tokenizer, latents, data.validation.labels(spec.labels),
        generators,
    )  # fmt: skip
    for steps in spec.budgets:
        generator = generators[steps]
        samples, straight = draw_samples(spec, tokenizer, generator, labels, report)
        scenes = SceneSet(read_scenes(network.model, samples), labels)
        generated = {
            **generation_numbers(scenes, samples, reference, spec.labels),
            **straight,
            **losses[steps],
        }
        if classes is not None:
            generated[CLASS_DISTANCE] = classes.to(samples)
        numbers |= {at_budget(name, steps): generated[name] for name in generated}
        if steps == spec.budgets[-1]:
            numbers |= generated
        generating = dataclasses.replace(
            card,
            num_samples=spec.num_samples,
            sampler=spec.sampler,
            labels="balanced",
            generator_hash=generator_hash(generator),
            generator_latents_hash=generator.latents_hash,
            seed=spec.generate.seed,
        )
        path = folder / f"card_generation_{steps}.json"
        write(path, generated, generating, num_evaluated=len(samples))
        columns = 2 * len(COLORS)
        save_grid(by_label(samples, labels), folder / f"samples_{steps}.png", columns)
    chosen = np.arange(PAIRS) * (len(images) // PAIRS)
    pairs = np.stack([images[chosen], rebuilt.image[chosen]], axis=1)
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
) -> Reconstructions:
    """PSNR in dB, SSIM, FD of reconstructions, and the share with the right shape."""
    images = data.validation.image
    models = MeasuredTokenizer(tokenizer, network)
    seen = extract_features(compare, models, Images.of(images), IN_MEMORY)
    rebuilt = reconstruct_images(tokenizer, images, batch_size=BATCH)
    real, scenes = (
        SceneSet.of(network.model, seen.column(name), data.validation.labels(condition))
        for name in ("real features", "features")
    )
    shape = predictions(scenes.reading)["shape"]
    is_right = shape == data.validation.attributes["shape"]
    return Reconstructions(
        image=rebuilt,
        numbers={
            **reconstruction_numbers(seen, models),
            "shape in reconstructions": float(np.mean(is_right)),
        },
        scenes=scenes,
        real=real,
    )


def training_scenes(
    network: FeatureNetwork, data: Dataset, folder: Path, condition: Labels
) -> SceneSet:
    """All training scenes; their features are kept in the `folder` of the data.

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
) -> dict[str, float]:
    """Accuracies of linear probes of features and of latents.

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
    labels = {name: data.train.attributes[name][:PROBE_IMAGES] for name in PROBED}
    answers = {name: data.validation.attributes[name] for name in PROBED}
    numbers = {}
    for of, (of_train, of_test) in rows.items():
        accuracy = probe_attributes(of_train, labels, of_test, answers)
        numbers |= {f"probe {of} {name}": accuracy[name] for name in accuracy}
    return numbers


def zero_shot_numbers(tokenizer: Tokenizer, data: Dataset) -> dict[str, float]:
    """Accuracies of zero-shot classes, where there is text."""
    if tokenizer.config.text is None:
        return {}
    context, numbers = tokenizer.config.text.context, {}
    values = {name: np.unique(data.train.attributes[name]) for name in NAMES}
    test = Images.of(data.validation.image)
    embeddings = extract_features(embed, tokenizer, test, IN_MEMORY).column("embedding")
    for name in PROBED:
        captions = prompts(name, PROMPTS, values)
        ids = np.stack([data.words.encode(some, context) for some in captions])
        numbers[f"zero-shot {name}"] = zero_shot_accuracy(
            embeddings,
            np.searchsorted(values[name], data.validation.attributes[name]),
            embed_prompts(tokenizer, ids, batch_size=BATCH),
        )
    return numbers
