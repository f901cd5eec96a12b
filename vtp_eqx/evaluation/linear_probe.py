"""The linear probe of VTP's tools and of its ablations, over any source of images.

The two published protocols differ in what the classifiers read: the tools join the
summaries of the last blocks (DINOv2's way), the ablations read the last layer or the
bottleneck. Both are the sweep of `sweep`.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.config import as_json, require
from vtp_eqx.data.crops import RandomCrop
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.loader import rows_at
from vtp_eqx.evaluation.extract import (
    apply,
    extract_features,
    ExtractConfig,
    Images,
    read_ahead,
)
from vtp_eqx.evaluation.probe_sweep import accuracies, start, step, Sweep, SweepConfig
from vtp_eqx.evaluation.protocols import (
    check_classes,
    Numbers,
    settings,
    tokenizer_card,
    write_numbers,
)
from vtp_eqx.files import atomic_path, NPZ_ERRORS
from vtp_eqx.mesh import replicate, shard_batch
from vtp_eqx.models.arrays import named_arrays, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


ProbeFeatures = Literal["blocks", "last", "latents", "mean latents"]
Batches = Iterator[tuple[dict[str, Any], np.ndarray]]  # features by kind, and labels
MAX_TRIES = 100  # ours: rows tried in the place of one that cannot be read


def blocks(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """Summaries of the last block, and of the last four, with the mean last patch."""
    features = tokenizer.features(image, min(4, tokenizer.config.encoder.depth))
    patches = jnp.mean(features[-1].patches, axis=0)
    return {
        f"{count} blocks": jnp.concatenate(
            [*[block.cls for block in features[-count:]], patches]
        )
        for count in {1, len(features)}
    }


def last(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The summary of the last block, and its mean patch, each alone."""
    features = tokenizer.features(image)[-1]
    return {"summary": features.cls, "mean patch": jnp.mean(features.patches, axis=0)}


def latents(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The whole grid of latents."""
    return {"latents": tokenizer.encode(image).reshape(-1)}


def mean_latents(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The mean of the latents."""
    return {"mean latents": jnp.mean(tokenizer.encode(image), axis=(0, 1))}


READERS: dict[ProbeFeatures, Callable[[Tokenizer, Any], dict[str, Any]]] = {
    "blocks": blocks,
    "last": last,
    "latents": latents,
    "mean latents": mean_latents,
}


def probe(
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
    *,
    reads: ProbeFeatures = "blocks",
    config: SweepConfig | None = None,
    num_samples: int | None = None,
) -> Numbers:
    """The best test accuracy of a sweep of classifiers, for each kind of features.

    Best of all rates and epochs *on the test images*, as published. Training images are
    cropped at random to the size of `train.crop`, or, without `config.augment`, read
    once through that crop. Goes on behind the last epoch that a killed run finished.
    `probe.json` has the accuracy of every classifier after every epoch.
    """
    config = config or SweepConfig()
    check_classes(train, test)
    read, of = READERS[reads], {"tokenizer": weights_hash(tokenizer)}
    asked = extract_features(read, tokenizer, test, place, stage="test features", of=of)
    asked.check_count(num_samples)
    labels = asked.column("label")
    names = getattr(test.source, "class_names", None)
    num_classes = len(names) if names else 1 + int(labels.max())
    size = test.crop.size
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    kinds = sorted(eqx.filter_eval_shape(read, tokenizer, image))
    features = {kind: asked.column(kind) for kind in kinds}
    widths = {kind: rows.shape[1] for kind, rows in features.items()}

    described = {
        **of,
        "reads": reads,
        "config": json.loads(as_json(config)),
        "train": train.description,
        "test": test.description,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    path = place.folder / f"sweep-{digest[:12]}.npz"
    fresh = start(config, widths, num_classes, key=jr.key(config.seed))
    sweep, scores = restore(path, fresh)
    sweep = replicate(sweep, place.mesh)
    first = len(scores) * config.epoch_steps
    make = augmented_batches if config.augment else cached_batches
    batches = make(tokenizer, reads, train, place, config, first)
    for now in range(first, config.num_steps):
        found, answers = next(batches)
        require(
            int(answers.max()) < num_classes,
            f"Training and test images have the same classes; got {num_classes} in the "
            f"test set and the training label {answers.max()}: use sets that match.",
        )
        rates = jnp.asarray(config.rates_at(now))
        asked_for = shard_batch(answers, place.mesh)
        sweep = step(sweep, found, asked_for, rates, config.momentum)
        place.report("probe", now + 1, config.num_steps)
        if (now + 1) % config.epoch_steps == 0:
            scores.append(accuracies(sweep, config, features, labels))
            save(path, sweep, scores)

    with atomic_path(place.folder / "probe.json") as unfinished:
        unfinished.write_text(json.dumps(scores, indent=1) + "\n")
    card = dataclasses.replace(
        tokenizer_card(tokenizer, asked, test, probe_settings(reads, config, train)),
        num_reference=len(train.rows),
        reference_hash=train.description["source"],
        seed=config.seed,
    )
    return write_numbers(best(scores, kinds), card, asked, place, "probe")


def best(scores: list[dict[str, float]], kinds: list[str]) -> Numbers:
    """The largest accuracy of each kind of features, over rates and epochs."""
    return {
        f"linear probe, {kind}": max(
            value
            for after_epoch in scores
            for name, value in after_epoch.items()
            if name.startswith(f"{kind}, ")
        )
        for kind in kinds
    }


def probe_settings(reads: str, config: SweepConfig, train: Images) -> str:
    """What the number of a probe depends on, in words."""
    crop = repr(RandomCrop(train.crop.size) if config.augment else train.crop)
    return settings(
        reads=reads,
        training_crop=crop,
        rates=config.rates,
        batch_size=config.batch_size,
        steps=config.num_steps,
        selected="on the test images",
    )


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
                example = train.source[int(rows[(row + step_aside) % len(rows)])]
                return crop(example["image"], rng), int(example["label"])
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
    model = replicate(tokenizer, place.mesh)
    while True:
        batch = [next(examples) for _ in range(config.batch_size)]
        images = shard_batch(np.stack([image for image, _ in batch]), place.mesh)
        with jax.default_matmul_precision("highest"):
            found = apply(READERS[reads], model, images)
        yield found, np.array([label for _, label in batch])


def cached_batches(
    tokenizer: Tokenizer,
    reads: ProbeFeatures,
    train: Images,
    place: ExtractConfig,
    config: SweepConfig,
    first_step: int,
) -> Batches:
    """Features of the training images as `train.crop` shows them, read only once."""
    of = {"tokenizer": weights_hash(tokenizer)}
    read = READERS[reads]
    seen = extract_features(
        read, tokenizer, train, place, stage="training features", of=of
    )
    labels = seen.column("label")
    size = train.crop.size
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    columns = {
        kind: seen.column(kind)
        for kind in eqx.filter_eval_shape(read, tokenizer, image)
    }
    for now in range(first_step, config.num_steps):
        rows = rows_at(now, seen.count, config.batch_size, seed=config.seed)
        batch = {kind: values[rows] for kind, values in columns.items()}
        yield shard_batch(batch, place.mesh), labels[rows]


def save(path: Path, sweep: Sweep, scores: list[dict[str, float]]) -> None:
    """Writes what `restore` reads."""
    arrays = {name: np.asarray(leaf) for name, leaf in named_arrays(sweep).items()}
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file, allow_pickle=False, scores=np.array(json.dumps(scores)), **arrays
        )


def restore(path: Path, fresh: Sweep) -> tuple[Sweep, list[dict[str, float]]]:
    """A saved sweep and its scores, or `fresh` and none where there is no whole one."""
    try:
        with path.open("rb") as file, np.load(file) as content:
            arrays = [jnp.asarray(content[name]) for name in named_arrays(fresh)]
            scores = json.loads(str(content["scores"]))
    except NPZ_ERRORS:
        return fresh, []
    return jax.tree.unflatten(jax.tree.structure(fresh), arrays), scores
