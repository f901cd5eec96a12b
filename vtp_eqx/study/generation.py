"""A generator's samples, and what they have in common with real scenes."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.evaluation.batches import as_bytes, in_batches
from vtp_eqx.evaluation.frechet import frechet_distance
from vtp_eqx.evaluation.mind import mind
from vtp_eqx.evaluation.precision_recall import neighborhood_scores
from vtp_eqx.evaluation.scene_metrics import (
    attribute_total_variation,
    conditional_accuracy,
    recognizable_share,
    SceneSet,
)
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.scenes.captions import COLORS
from vtp_eqx.study.run_spec import Labels, RunSpec


BATCH = 240

Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """What samples are compared with.

    `real` are the validation scenes, with `attributes`, and `rebuilt` their
    reconstructions. `others` are as many training scenes as there are samples, since a
    distance falls with their number, and one of each group, because those of a group
    resemble one another: their distance to `real` is the floor of that of samples.
    """

    real: SceneSet
    rebuilt: SceneSet
    others: SceneSet
    attributes: Mapping[str, Int[np.ndarray, " num"]]


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
    for start in range(0, len(labels), BATCH):
        batch = labels[start : start + BATCH]
        full = batch[np.arange(BATCH) % len(batch)]
        latents = generator.sample(
            jnp.asarray(full), spec.sampler, latents_hash=of,
            key=jr.fold_in(key, start),
        )  # fmt: skip
        parts.append(np.asarray(latents)[: len(batch)])
        report("sampling", start + len(batch), len(labels))
    latents = np.concatenate(parts)
    return as_bytes(in_batches(_decode, tokenizer, latents, batch_size=BATCH))


def floor_numbers(reference: Reference) -> dict[str, float]:
    """What `compare_sets` gives of real scenes that no generator made.

    As "FD(train, validation)" and so on: what samples can hope for.
    """
    numbers = compare_sets(reference.others, reference.real)
    return {f"{name}(train, validation)": numbers[name] for name in numbers}


def compare_sets(scenes: SceneSet, real: SceneSet) -> dict[str, float]:
    """FD and MIND to real scenes; precision, recall, density and coverage.

    The latter four of equal counts, the first scenes of the larger set.
    """
    count = min(len(scenes.features), len(real.features))
    return {
        "FD": frechet_distance(scenes.moments, real.moments),
        "MIND": mind(scenes.projections, real.projections),
        **neighborhood_scores(real.features[:count], scenes.features[:count]),
    }


def generation_numbers(
    samples: SceneSet,
    labels: Int[np.ndarray, " num"],
    reference: Reference,
    condition: Labels,
) -> dict[str, float]:
    """Distances of samples to real scenes and to reconstructions, and their accuracy.

    `compare_sets` of samples and real scenes, its FD as "FD-scenes"; and by how much
    the frequencies of textures and positions differ from real ones.
    """
    reading, rebuilt = samples.reading, reference.rebuilt
    scores = compare_sets(samples, reference.real)
    drift = attribute_total_variation(reading, reference.attributes)
    return {
        "FD-scenes": scores.pop("FD"),
        "FD(samples, reconstructions)": frechet_distance(
            samples.moments, rebuilt.moments
        ),
        **scores,
        **conditional_accuracy(reading, labels, condition),
        "shape recognizable": recognizable_share(reading, "shape"),
        **{f"total variation {name}": drift[name] for name in ("texture", "position")},
    }


def by_label(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A grid of samples in the order of their labels, as many of each."""
    classes = int(labels.max()) + 1
    each = max(1, 4 * len(COLORS) * 2 // classes)
    rows = [np.flatnonzero(labels == label)[:each] for label in range(classes)]
    return images[np.concatenate(rows)]


def _decode(tokenizer: Tokenizer, latents: Any) -> Any:
    return tokenizer.decode(tokenizer.denormalize_latents(latents))
