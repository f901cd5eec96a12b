"""Everything that is measured of one point, with cards and pictures."""

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, Int, UInt8
import numpy as np

from vtp_eqx.config import short_hash
from vtp_eqx.data.scene_captions import COLORS, NAMES, prompts
from vtp_eqx.evaluation.batches import (
    as_bytes,
    encoded_latents,
    in_batches,
    reconstructed,
    summarize,
)
from vtp_eqx.evaluation.card import EvaluationCard, write
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.generation import (
    class_agreement,
    read_scenes,
    reading_moments,
    scene_moments,
    share_drift,
)
from vtp_eqx.evaluation.reconstruction import reconstruction_scores
from vtp_eqx.evaluation.understanding import (
    class_embeddings,
    probe_attributes,
    zero_shot_accuracy,
)
from vtp_eqx.files import replacing
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.models.arrays import arrays_hash, latents_hash, named_arrays, weights_hash
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.scene_network import (
    load_scene_network,
    scene_network_hash,
    SceneNetwork,
    SHIPPED_ORIGIN,
)
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.patches import patchify
from vtp_eqx.study.checkout import commit
from vtp_eqx.study.dataset import Dataset
from vtp_eqx.study.pictures import save_grid
from vtp_eqx.study.point import Point
from vtp_eqx.training.pca_start import pca_reconstruction


PROBE_IMAGES = 4000  # training images that probes are fitted on
PROMPTS = 64  # captions averaged for one class embedding; CLIP has 80
SAMPLE_BATCH = 250
BATCH = 256  # of all else that tokenizers do
SHOWN = 8  # images a row of a grid
# Of results that do not name theirs.
FIRST_JUDGE = "0acc6316b4492e63c760e2dbc23ad4635866318c40c22b66fbf97ec1e3bab9bd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The numbers of a point by name, what code measured them when, and the judge.

    `report.DEFINITIONS` says what those of the table are; `judge` is the hash of the
    scene network that looked.
    """

    numbers: dict[str, float]
    commit: str
    date: str
    judge: str = FIRST_JUDGE

    @classmethod
    def read(cls, folder: Path) -> "Result | None":
        """The result in a point's folder, or `None` where it is not finished.

        One of another scene network counts for none: their distances have two scales.
        """
        path = folder / "result.json"
        found = cls(**json.loads(path.read_text())) if path.exists() else None
        return found if found is not None and found.is_comparable else None

    @property
    def is_comparable(self) -> bool:
        """Whether the shipped scene network was the judge."""
        return self.judge == scene_network_hash()

    def write(self, folder: Path) -> None:
        """Marks the point as finished."""
        with replacing(folder / "result.json") as unfinished:
            fields = dataclasses.asdict(self)
            unfinished.write_text(json.dumps(fields, indent=1) + "\n")


def measure(
    point: Point,
    tokenizer: Tokenizer,
    generator: Generator,
    data: Dataset,
    folder: Path,
    report: Callable[[str, int, int], None],
) -> Result:
    """Measures a point, and leaves numbers, cards and pictures in `folder`."""
    network = load_scene_network()
    real = scene_moments(network, data.validation.image)
    rebuilt = reconstructed(tokenizer, data.validation.image, batch_size=BATCH)
    latents = encoded_latents(tokenizer, data.validation.image, batch_size=BATCH)
    # As many real images as samples: a distance falls with their number.
    others = scene_moments(network, data.train.image[: point.num_samples])
    recovered = reconstruction_numbers(network, data, rebuilt, real, tokenizer, latents)
    recovered["FD-scenes floor"] = frechet_distance(others, real)
    understood = understanding_numbers(tokenizer, data, latents)
    report("sampling", 0, point.num_samples)
    labels = np.arange(point.num_samples) % data.num_classes
    begun = time.monotonic()
    images = samples(point, tokenizer, generator, labels, report)
    seconds = time.monotonic() - begun
    generated = generation_numbers(network, images, labels, rebuilt, real, data)
    rebuilding = EvaluationCard(
        num_samples=len(rebuilt),
        num_reference=len(data.validation.image),
        reference_hash=short_hash(point.data),
        tokenizer_hash=weights_hash(tokenizer),
        latents_hash=latents_hash(tokenizer),
        precision="float32",
        feature_network="scene-network",
        feature_hash=scene_network_hash(),
        feature_origin=SHIPPED_ORIGIN,
    )
    generating = dataclasses.replace(
        rebuilding,
        num_samples=point.num_samples,
        sampler=point.sampler,
        labels="balanced",
        generator_hash=arrays_hash(named_arrays(generator.dit)),
        generator_latents_hash=generator.latents_hash,
        seed=point.generate.seed,
    )
    count = len(rebuilt)
    write(
        folder / "card_reconstruction.json",
        {**recovered, **understood},
        rebuilding,
        num_evaluated=count,
    )
    write(
        folder / "card_generation.json",
        generated,
        generating,
        num_evaluated=len(images),
    )
    shown = np.arange(2 * SHOWN) * (count // (2 * SHOWN))
    pairs = np.stack([data.validation.image[shown], rebuilt[shown]], axis=1)
    save_grid(
        pairs.reshape(-1, *rebuilt.shape[1:]), folder / "reconstructions.png", 2 * SHOWN
    )
    save_grid(_by_class(images, labels, data), folder / "samples.png", len(COLORS) * 2)
    result = Result(
        numbers={**recovered, **understood, "sampling seconds": seconds, **generated},
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        judge=scene_network_hash(),
    )
    result.write(folder)
    return result


def reconstruction_numbers(
    network: SceneNetwork,
    data: Dataset,
    rebuilt: UInt8[np.ndarray, "num height width 3"],
    real: Moments,
    tokenizer: Tokenizer,
    latents: Float[np.ndarray, "num rows columns channels"],
) -> dict[str, float]:
    """PSNR, SSIM and distance of reconstructions, and what PCA would give.

    And by how much `latents`, which they are made from, differ from their neighbors.
    """
    images = data.validation.image
    unit = lambda images: jnp.asarray(images, jnp.float32) / 255
    scores = reconstruction_scores(unit(images), unit(rebuilt))
    reading = read_scenes(network, rebuilt)
    size = tokenizer.config.patch_size
    patches = jax.vmap(lambda one: patchify(one, size))(unit(images))
    patches = patches.reshape(-1, patches.shape[-1])
    linear = pca_reconstruction(patches, tokenizer.config.latent_width)
    error = np.square(np.clip(linear, 0, 1) - patches).reshape(len(images), -1).mean(1)
    shape = np.argmax(reading.logits["shape"], axis=-1)
    return {
        "PSNR": float(np.mean(scores["psnr"])),
        "SSIM": float(np.mean(scores["ssim"])),
        "PSNR of PCA": float(np.mean(-10 * np.log10(error))),
        "rFD-scenes": frechet_distance(reading_moments(reading), real),
        "latent roughness": float(jnp.mean(smoothness_loss(jnp.asarray(latents)))),
        "shape kept": float(np.mean(shape == data.validation.attributes["shape"])),
    }


def understanding_numbers(
    tokenizer: Tokenizer,
    data: Dataset,
    latents: Float[np.ndarray, "num rows columns channels"],
) -> dict[str, float]:
    """Linear probes on features and on latents, and zero-shot where there is text.

    `latents` are those of the validation images.
    """
    train, test = data.train.image[:PROBE_IMAGES], data.validation.image
    known = {name: data.train.attributes[name][:PROBE_IMAGES] for name in NAMES}
    asked = {name: data.validation.attributes[name] for name in NAMES}
    fitted = encoded_latents(tokenizer, train, batch_size=BATCH)
    rows = {
        "features": [
            in_batches(summarize, tokenizer, images, batch_size=BATCH)
            for images in (train, test)
        ],
        "latents": [some.mean(axis=(1, 2)) for some in (fitted, latents)],
    }
    numbers = {}
    for what, (first, last) in rows.items():
        accuracy = probe_attributes(first, known, last, asked)
        for name, value in accuracy.items():
            numbers[f"probe {what} {name}"] = value
        numbers[f"probe {what} mean"] = float(np.mean(list(accuracy.values())))
    if tokenizer.config.text is None:
        return numbers
    values = {name: np.unique(data.train.attributes[name]) for name in NAMES}
    images = in_batches(Tokenizer.embed_image, tokenizer, test, batch_size=BATCH)
    for name in NAMES:
        captions = prompts(name, PROMPTS, values)
        context = tokenizer.config.text.context
        ids = np.concatenate([data.words.encode(some, context) for some in captions])
        texts = in_batches(Tokenizer.embed_text, tokenizer, ids, batch_size=BATCH)
        classes = class_embeddings(texts.reshape(len(captions), PROMPTS, -1))
        places = np.searchsorted(values[name], asked[name])
        numbers[f"zero-shot {name}"] = zero_shot_accuracy(images, places, classes)
    accuracies = [numbers[f"zero-shot {name}"] for name in NAMES]
    numbers["zero-shot mean"] = float(np.mean(accuracies))
    return numbers


def samples(
    point: Point,
    tokenizer: Tokenizer,
    generator: Generator,
    labels: Int[np.ndarray, " num"],
    report: Callable[[str, int, int], None],
) -> UInt8[np.ndarray, "num height width 3"]:
    """One image of the generator for each label, as bytes."""
    # Training splits the key of this seed in two; these draws are none of those.
    key, parts = jr.fold_in(jr.key(point.generate.seed), 2), []
    for start in range(0, len(labels), SAMPLE_BATCH):
        batch = labels[start : start + SAMPLE_BATCH]
        full = batch[np.arange(SAMPLE_BATCH) % len(batch)]
        latents = generator.sample(
            jnp.asarray(full), point.sampler, latents_hash=latents_hash(tokenizer),
            key=jr.fold_in(key, start),
        )  # fmt: skip
        parts.append(np.asarray(latents)[: len(batch)])
        report("sampling", start + len(batch), len(labels))
    latents = np.concatenate(parts)
    return as_bytes(in_batches(_decode, tokenizer, latents, batch_size=BATCH))


def generation_numbers(
    network: SceneNetwork,
    images: UInt8[np.ndarray, "num height width 3"],
    labels: Int[np.ndarray, " num"],
    rebuilt: UInt8[np.ndarray, "others height width 3"],
    real: Moments,
    data: Dataset,
) -> dict[str, float]:
    """Distances of samples to real images and to reconstructions, and obedience.

    And how far shares of values, such as that of striped backgrounds, are from real.
    """
    reading = read_scenes(network, images)
    moments = reading_moments(reading)
    drift = share_drift(reading, data.validation.attributes)
    return {
        "FD-scenes": frechet_distance(moments, real),
        "FD-scenes to reconstructions": frechet_distance(
            moments, scene_moments(network, rebuilt)
        ),
        **class_agreement(reading, labels),
        **{f"drift {name}": value for name, value in drift.items()},
    }


def _by_class(images: np.ndarray, labels: np.ndarray, data: Dataset) -> np.ndarray:
    """Two samples of every class, side by side, in the order of labels."""
    rows = [np.flatnonzero(labels == label)[:2] for label in range(data.num_classes)]
    return images[np.concatenate(rows)]


def _decode(tokenizer: Tokenizer, latents: Any) -> Any:
    return tokenizer.decode(tokenizer.denormalize_latents(latents))
