"""The linear probe of DINOv2 and VTP: many learning rates at once, by SGD.

Classifiers that differ in learning rate and features learn side by side from the same
batches; they share nothing. The published number is the best of them all, after any
epoch, *on the images that are then quoted*: it is selected on the test set. The probe
of `linear_probe` is not.

The two published protocols differ in what the classifiers read: VTP's tools join the
summaries of the last blocks (DINOv2's way), its ablations read the last layer or the
bottleneck.

Oquab et al. 2023 (DINOv2), https://arxiv.org/abs/2304.07193, section 7.1.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np
import optax

from vtp_eqx.config import as_json, require
from vtp_eqx.data.crops import RandomCrop
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.labels import label_of
from vtp_eqx.data.loader import read_ahead, rows_at
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.card import Numbers, settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.labels import check_classes, require_labels
from vtp_eqx.evaluation.linear_probe import ProbeFeatures, READERS
from vtp_eqx.file_kinds import open_npz, UnreadableNpzError
from vtp_eqx.files import write_npz, write_text
from vtp_eqx.mesh import data_mesh, replicate, shard_batch
from vtp_eqx.models.arrays import named_arrays, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


Batches = Iterator[tuple[dict[str, np.ndarray], np.ndarray]]  # features, and labels
MAX_TRIES = 100  # ours: rows tried in the place of one that cannot be read
EVALUATED = 2048  # test rows classified at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """One sweep of linear probes."""

    rates: tuple[float, ...] = (
        1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1,
    )  # code: for a batch of 256  # fmt: skip
    batch_size: int = 1024  # code: 128 on each of 8 GPUs
    num_epochs: int = 10  # code
    epoch_steps: int = 1250  # code
    momentum: float = 0.9  # code
    init_std: float = 0.01  # code
    augment: bool = True  # code; without, each image is encoded once, and not cropped
    seed: int = 0

    def __post_init__(self):
        require(
            bool(self.rates) and min(self.rates) > 0,
            f"`rates` are positive learning rates; got {self.rates}: give some.",
        )
        require(
            min(self.batch_size, self.num_epochs, self.epoch_steps) > 0,
            "A sweep takes steps; got "
            f"{self.num_epochs} x {self.epoch_steps} of {self.batch_size} images: "
            "make all positive.",
        )

    @property
    def num_steps(self) -> int:
        """Steps of the whole sweep."""
        return self.num_epochs * self.epoch_steps

    def rates_at(self, step: int) -> Float[np.ndarray, " rates"]:
        """The learning rates of a step: scaled by the batch, and by cosine to 0."""
        cosine = (1 + math.cos(math.pi * step / self.num_steps)) / 2
        scale = cosine * self.batch_size / 256
        return np.asarray(self.rates, np.float32) * np.float32(scale)


class Linears(eqx.Module):
    """A linear classifier for each learning rate, on one kind of features."""

    weight: Float[Array, "rates width classes"]
    bias: Float[Array, "rates classes"]

    def __call__(
        self, features: Float[Array, "batch width"]
    ) -> Float[Array, "rates batch classes"]:
        return jnp.einsum("bw,rwc->rbc", features, self.weight) + self.bias[:, None]


class Sweep(eqx.Module):
    """All classifiers, by the kind of features they read, and their momentum."""

    linears: dict[str, Linears]
    velocity: dict[str, Linears]


def start(
    config: SweepConfig, widths: Mapping[str, int], classes: int, *, key: PRNGKeyArray
) -> Sweep:
    """Classifiers before the first step, for features of these widths by kind."""
    rates = len(config.rates)
    linears = {
        # The same start for every rate, which then is all that tells them apart.
        kind: Linears(
            jnp.broadcast_to(
                config.init_std * jr.normal(one, (width, classes), jnp.float32),
                (rates, width, classes),
            ),
            jnp.zeros((rates, classes), jnp.float32),
        )
        for (kind, width), one in zip(
            widths.items(), jr.split(key, len(widths)), strict=True
        )
    }
    return Sweep(linears, jax.tree.map(jnp.zeros_like, linears))


@eqx.filter_jit
def step(
    sweep: Sweep,
    features: dict[str, Float[Array, "batch ..."]],
    labels: Int[Array, " batch"],
    rates: Float[Array, " rates"],
    momentum: float,
) -> Sweep:
    """One step of SGD: `v = momentum v + gradient`, then `weight -= rate v`."""

    def total(linears: dict[str, Linears]) -> Float[Array, ""]:
        # A sum over classifiers, so that each has the gradient of its own mean.
        losses = []
        for kind, classifiers in linears.items():
            logits = classifiers(features[kind])
            answers = jnp.broadcast_to(labels, logits.shape[:-1])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
            losses.append(each.mean(axis=1).sum())
        return jnp.stack(losses).sum()

    gradient = jax.grad(total)(sweep.linears)
    velocity = jax.tree.map(lambda v, g: momentum * v + g, sweep.velocity, gradient)
    scaled = lambda v: v * rates.reshape(-1, *[1] * (v.ndim - 1))
    linears = jax.tree.map(lambda w, v: w - scaled(v), sweep.linears, velocity)
    return Sweep(linears, velocity)


def accuracies(
    sweep: Sweep,
    config: SweepConfig,
    features: Mapping[str, Float[np.ndarray, "test ..."]],
    labels: Int[np.ndarray, " test"],
) -> dict[str, float]:
    """The share of rows that each classifier gets right, by features and rate."""
    found = {}
    for kind, linears in sweep.linears.items():
        right = np.zeros(len(config.rates), np.int64)
        for first in range(0, len(labels), EVALUATED):
            rows = slice(first, first + EVALUATED)
            right += np.asarray(_right(linears, features[kind][rows], labels[rows]))
        for rate, count in zip(config.rates, right, strict=True):
            found[f"{kind}, rate {rate:g}"] = float(count / len(labels))
    return found


@eqx.filter_jit
def _right(linears: Linears, features: Any, labels: Any) -> Array:
    return jnp.sum(jnp.argmax(linears(features), axis=-1) == labels, axis=-1)


def probe_sweep(
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
    *,
    reads: ProbeFeatures = "blocks",
    config: SweepConfig | None = None,
) -> Numbers:
    """The best test accuracy of a sweep of classifiers, for each kind of features.

    Best of all rates and epochs *on the test images*, as published. Training images are
    cropped at random to the size of `train.crop`, or, without `config.augment`, read
    once through that crop. Continues after the last epoch that a killed run finished.
    `probe.json` has the accuracy of every classifier after every epoch.
    """
    config = config or SweepConfig()
    check_classes(train, test)
    mesh = data_mesh(1) if place.mesh is None else place.mesh
    read = READERS[reads]
    seen = extract_features(read, tokenizer, test, place, stage="test features")
    labels = seen.labels(test)
    names = getattr(test.source, "class_names", None)
    num_classes = len(names) if names else 1 + int(labels.max())
    features = seen.features()
    widths = {kind: rows.shape[1] for kind, rows in features.items()}

    described = {
        "tokenizer": weights_hash(tokenizer),
        "reads": reads,
        "config": json.loads(as_json(config)),
        "train": train.description,
        "test": test.description,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    path = place.folder / f"sweep-{digest[:12]}.npz"
    fresh = start(config, widths, num_classes, key=jr.key(config.seed))
    sweep, scores = restore(path, fresh)
    sweep = replicate(sweep, mesh)
    first = len(scores) * config.epoch_steps
    make = augmented_batches if config.augment else cached_batches
    batches = make(tokenizer, reads, train, place, config, first)
    for now in range(first, config.num_steps):
        rows, answers = next(batches)
        require(
            int(answers.max()) < num_classes,
            f"Training and test images have the same classes; got {num_classes} in the "
            f"test set and the training label {answers.max()}: use sets that match.",
        )
        rates = jnp.asarray(config.rates_at(now))
        rows, answers = shard_batch((rows, answers), mesh)
        sweep = step(sweep, rows, answers, rates, config.momentum)
        place.report("probe", now + 1, config.num_steps)
        if (now + 1) % config.epoch_steps == 0:
            scores.append(accuracies(sweep, config, features, labels))
            save(path, sweep, scores)

    write_text(place.folder / "probe.json", json.dumps(scores, indent=1) + "\n")
    crop = RandomCrop(train.crop.size) if config.augment else train.crop
    protocol = settings(
        reads=reads, training_crop=repr(crop), rates=config.rates,
        batch_size=config.batch_size, steps=config.num_steps,
        selected="on the test images",
    )  # fmt: skip
    card = tokenizer_card(
        tokenizer, seen, test, protocol,
        num_reference=len(train.rows), reference_hash=train.description["source"],
        seed=config.seed,
    )  # fmt: skip
    best = {
        f"linear probe, {kind}": max(
            value
            for after_epoch in scores
            for name, value in after_epoch.items()
            if name.startswith(f"{kind}, ")
        )
        for kind in widths
    }
    return write_numbers(best, card, seen, place, "probe")


def augmented_batches(
    tokenizer: Tokenizer,
    reads: ProbeFeatures,
    train: Images,
    place: ExtractConfig,
    config: SweepConfig,
    first_step: int,
) -> Batches:
    """Features of random crops, a function of (seed, step), from `first_step` on.

    In the place of an image that cannot be read, the next one that can is used.
    """
    rows, crop = train.rows, RandomCrop(train.crop.size)

    def read(item: tuple[int, int, int]) -> tuple[np.ndarray, int]:
        now, index, row = item
        rng = np.random.default_rng([config.seed, now, index])
        for step_aside in range(MAX_TRIES):
            with contextlib.suppress(UnreadableImageError):
                other = int(rows[(row + step_aside) % len(rows)])
                example = train.source[other]
                label = label_of(example)
                require_labels(train, np.array([other]), np.array([label]))
                return crop(example["image"], rng), label
        raise ValueError(
            f"A probe learns from images that can be read; got {MAX_TRIES} in a row "
            f"that cannot, from row {rows[row]} on: repair or remove them."
        )

    items = (
        (now, index, int(row))
        for now in range(first_step, config.num_steps)
        for index, row in enumerate(
            rows_at(now, len(rows), config.batch_size, seed=config.seed)
        )
    )
    # One batch ahead: more would hold many images in memory, of their full size.
    examples = read_ahead(
        read, items, num_threads=place.num_threads, num_ahead=config.batch_size
    )
    model = tokenizer if place.mesh is None else replicate(tokenizer, place.mesh)
    while True:
        batch = [next(examples) for _ in range(config.batch_size)]
        images = np.stack([image for image, _ in batch])
        features = in_batches(
            READERS[reads], model, images, batch_size=place.batch_size, mesh=place.mesh
        )
        yield features, np.array([label for _, label in batch])


def cached_batches(
    tokenizer: Tokenizer,
    reads: ProbeFeatures,
    train: Images,
    place: ExtractConfig,
    config: SweepConfig,
    first_step: int,
) -> Batches:
    """Features of the training images as `train.crop` shows them, read only once."""
    read = READERS[reads]
    seen = extract_features(read, tokenizer, train, place, stage="training features")
    labels, columns = seen.labels(train), seen.features()
    for now in range(first_step, config.num_steps):
        rows = rows_at(now, seen.count, config.batch_size, seed=config.seed)
        yield {kind: values[rows] for kind, values in columns.items()}, labels[rows]


def save(path: Path, sweep: Sweep, scores: list[dict[str, float]]) -> None:
    """Writes what `restore` reads."""
    arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(sweep).items()}
    write_npz(path, scores=np.array(json.dumps(scores)), **arrays)


def restore(path: Path, fresh: Sweep) -> tuple[Sweep, list[dict[str, float]]]:
    """A saved sweep and its scores, or `fresh` and none where there is no whole one."""
    try:
        with open_npz(path) as content:
            arrays = [jnp.asarray(content[name]) for name in named_arrays(fresh)]
            scores = json.loads(str(content["scores"]))
    except UnreadableNpzError:
        return fresh, []
    return jax.tree.unflatten(jax.tree.structure(fresh), arrays), scores
