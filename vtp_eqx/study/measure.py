"""All measurements of one run, with cards and pictures."""

from collections.abc import Callable, Mapping
import dataclasses
import json
from pathlib import Path
import time
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, Int, UInt8
import numpy as np

from vtp_eqx.config import short_hash
from vtp_eqx.evaluation.batches import (
    as_bytes,
    BYTES,
    encode_images,
    in_batches,
    reconstruct_images,
)
from vtp_eqx.evaluation.card import EvaluationCard, write
from vtp_eqx.evaluation.extract import BatchConfig, extract_features
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import last_block, probe_attributes
from vtp_eqx.evaluation.networks import FeatureNetwork, scene_features
from vtp_eqx.evaluation.reconstruction import (
    compare,
    MeasuredTokenizer,
    reconstruction_numbers,
)
from vtp_eqx.evaluation.scene_metrics import (
    attribute_total_variation,
    conditional_accuracy,
    predictions,
    read_scenes,
    reading_moments,
    recognizable_share,
    scene_moments,
)
from vtp_eqx.evaluation.zero_shot import embed, embed_prompts, zero_shot_accuracy
from vtp_eqx.files import write_text
from vtp_eqx.frozen.scene_network import scene_network_hash, SceneNetwork, shipped
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.generator import Generator, generator_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.scenes.captions import COLORS, NAMES, prompts
from vtp_eqx.scenes.render import GROUP
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import Dataset
from vtp_eqx.study.run_spec import RunSpec


PROBE_IMAGES = 4000  # training images that probes are fitted to
PROMPTS = 64  # captions averaged for one class embedding; CLIP has 80
SAMPLE_BATCH = 240
BATCH = 240  # of all else that tokenizers do
IN_MEMORY = BatchConfig(batch_size=BATCH, mesh=None)
PAIRS = 16  # of scenes and their reconstructions in a grid, in two rows
# The attributes that probes and zero-shot are asked for.
PROBED = ("shape", "color", "position")
# The feature network of results that do not name theirs.
FIRST_NETWORK = "0acc6316b4492e63c760e2dbc23ad4635866318c40c22b66fbf97ec1e3bab9bd"

Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """The numbers of a run by name; what code measured them, when, with what network.

    `feature_hash` is the hash of the scene network. What depends on the generator is
    there once for each budget, as "FD-scenes @2000", and once more for the last one,
    as "FD-scenes".
    """

    numbers: dict[str, float]
    commit: str
    date: str
    feature_hash: str = FIRST_NETWORK

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

    `moments` and `real` are of their features, and of those of the images themselves.
    """

    image: UInt8[np.ndarray, "num height width 3"]
    numbers: dict[str, float]
    moments: Moments
    real: Moments


def measure(
    spec: RunSpec,
    tokenizer: Tokenizer,
    generators: Mapping[int, Generator],
    data: Dataset,
    folder: Path,
    report: Report,
    known: Mapping[str, float],
) -> RunResult:
    """Measures a run, and leaves numbers, cards and pictures in `folder`.

    `known` are numbers of its training, which the result has too.
    """
    network = scene_features(shipped(spec.data.size))
    read = network.model
    images = data.validation.image
    rebuilt = measure_reconstructions(network, tokenizer, data)
    latents = encode_images(tokenizer, images, batch_size=BATCH)
    # As many real images as samples, because a distance falls with their number; one of
    # each group, because those of a group are alike.
    others = data.train.image[::GROUP][: spec.num_samples]
    numbers = {
        **known,
        **rebuilt.numbers,
        "Geary's C": float(jnp.mean(smoothness_loss(jnp.asarray(latents)))),
        "FD(train, validation)": frechet_distance(
            scene_moments(read, others), rebuilt.real
        ),
        **probe_numbers(tokenizer, data, latents),
        **zero_shot_numbers(tokenizer, data),
    }
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
    for steps in spec.budgets:
        generator = generators[steps]
        samples = draw_samples(spec, tokenizer, generator, labels, report)
        generated = generation_numbers(read, samples, labels, spec, rebuilt, data)
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
        save_grid(_by_label(samples, labels), folder / f"samples_{steps}.png", columns)
    chosen = np.arange(PAIRS) * (len(images) // PAIRS)
    pairs = np.stack([images[chosen], rebuilt.image[chosen]], axis=1)
    pairs = pairs.reshape(-1, *images.shape[1:])
    save_grid(pairs, folder / "reconstructions.png", PAIRS)
    result = RunResult(
        numbers=numbers,
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        feature_hash=card.feature_hash,
    )
    result.write(folder)
    return result


def measure_reconstructions(
    network: FeatureNetwork, tokenizer: Tokenizer, data: Dataset
) -> Reconstructions:
    """PSNR in dB, SSIM, FD of reconstructions, and the share with the right shape."""
    images = data.validation.image
    models = MeasuredTokenizer(tokenizer, network)
    seen = extract_features(compare, models, Images.of(images), IN_MEMORY)
    rebuilt = reconstruct_images(tokenizer, images, batch_size=BATCH)
    shape = predictions(read_scenes(network.model, rebuilt))["shape"]
    is_right = shape == data.validation.attributes["shape"]
    return Reconstructions(
        image=rebuilt,
        numbers={
            **reconstruction_numbers(seen, models),
            "shape in reconstructions": float(np.mean(is_right)),
        },
        moments=seen.moments("features"),
        real=seen.moments("real features"),
    )


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


def draw_samples(
    spec: RunSpec,
    tokenizer: Tokenizer,
    generator: Generator,
    labels: Int[np.ndarray, " num"],
    report: Report,
) -> UInt8[np.ndarray, "num height width 3"]:
    """One image of the generator for each label, as bytes."""
    # Training splits the key of this seed in two; these draws are none of those.
    key, parts = jr.fold_in(jr.key(spec.generate.seed), 2), []
    of = latents_hash(tokenizer)
    for start in range(0, len(labels), SAMPLE_BATCH):
        batch = labels[start : start + SAMPLE_BATCH]
        full = batch[np.arange(SAMPLE_BATCH) % len(batch)]
        latents = generator.sample(
            jnp.asarray(full), spec.sampler, latents_hash=of,
            key=jr.fold_in(key, start),
        )  # fmt: skip
        parts.append(np.asarray(latents)[: len(batch)])
        report("sampling", start + len(batch), len(labels))
    latents = np.concatenate(parts)
    return as_bytes(in_batches(_decode, tokenizer, latents, batch_size=BATCH))


def generation_numbers(
    network: SceneNetwork,
    samples: UInt8[np.ndarray, "num height width 3"],
    labels: Int[np.ndarray, " num"],
    spec: RunSpec,
    rebuilt: Reconstructions,
    data: Dataset,
) -> dict[str, float]:
    """FD of samples to real images and to reconstructions, and conditional accuracy.

    And by how much the frequencies of textures and positions differ from real ones.
    """
    reading = read_scenes(network, samples)
    moments = reading_moments(reading)
    drift = attribute_total_variation(reading, data.validation.attributes)
    return {
        "FD-scenes": frechet_distance(moments, rebuilt.real),
        "FD(samples, reconstructions)": frechet_distance(moments, rebuilt.moments),
        **conditional_accuracy(reading, labels, spec.labels),
        "shape recognizable": recognizable_share(reading, "shape"),
        **{f"total variation {name}": drift[name] for name in ("texture", "position")},
    }


def _by_label(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A grid of samples in the order of their labels, as many of each."""
    classes = int(labels.max()) + 1
    each = max(1, 4 * len(COLORS) * 2 // classes)
    rows = [np.flatnonzero(labels == label)[:each] for label in range(classes)]
    return images[np.concatenate(rows)]


def _decode(tokenizer: Tokenizer, latents: Any) -> Any:
    return tokenizer.decode(tokenizer.denormalize_latents(latents))
