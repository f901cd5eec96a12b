"""Generation quality: gFID, sFID, Inception score, precision and recall of samples."""

from collections.abc import Callable, Collection
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.card import DISTANCE_NAMES, EvaluationCard, write
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import FeatureNetwork, network_outputs
from vtp_eqx.evaluation.precision_recall import inception_score, precision_and_recall
from vtp_eqx.evaluation.reference import Reference
from vtp_eqx.evaluation.sample_record import SampleRecord


CARD_FILE = "card_generation.json"


def evaluate_samples(
    samples: Images,
    record: SampleRecord | str,
    network: FeatureNetwork,
    reference: Reference,
    place: ExtractConfig,
    *,
    num_samples: int,
) -> dict[str, float]:
    """gFID of samples, and the other scores that network and reference allow.

    Beside gFID (or what it is called in this network): sFID where both have spatial
    features, the Inception score where the network is Inception, precision and recall
    where the reference has the features of its images. `record` tells what made the
    samples, or is their origin in words. Writes `card_generation.json`.
    """
    check_comparable(network, reference, samples.crop.size)
    if isinstance(record, SampleRecord):
        require(
            record.num_samples == num_samples,
            f"All samples are evaluated; got {num_samples} to evaluate, and a record "
            f"of {record.num_samples}: evaluate all, or sample again.",
        )
    of = {"network": network.hash}
    seen = extract_features(
        network_outputs, network, samples, place, stage="samples", of=of
    )
    seen.check_count(num_samples)
    card = EvaluationCard(
        **_made_by(record),
        num_samples=num_samples,
        num_reference=reference.moments.count,
        reference_hash=reference.hash,
        feature_network=network.name,
        feature_hash=network.hash,
        feature_origin=network.origin,
        crop=repr(samples.crop),
        images_hash=seen.images_hash,
        num_skipped=len(seen.skipped),
    )
    numbers = generation_numbers(
        network, reference, output_widths(network, samples.crop.size), seen.moments,
        seen.column,
    )  # fmt: skip
    path = place.folder / CARD_FILE
    write(path, numbers, card, num_evaluated=seen.count, skipped=seen.skipped)
    return numbers


def check_comparable(network: FeatureNetwork, reference: Reference, size: int) -> None:
    """Raises `ValueError` where images of that size have no distance to the reference.

    Before any sample is looked at: that may take hours.
    """
    network.check_size(size)
    reference.check_network(network.name, network.hash)
    require(
        reference.image_size in (None, size),
        f"Samples are compared with images of their size; got {size} pixels and a "
        f"reference of {reference.image_size}: make one for {size}.",
    )
    widths = output_widths(network, size)
    for name, moments in (
        ("features", reference.moments),
        ("spatial", reference.spatial),
    ):
        width = widths.get(name)
        require(
            moments is None or width in (None, moments.mean.size),
            f"`reference` ({0 if moments is None else moments.mean.size} {name}) must "
            f"have as many as the {network.name} gives ({width}): make it again with "
            "this network, or choose the network that made it.",
        )


def generation_numbers(
    network: FeatureNetwork,
    reference: Reference,
    has: Collection[str],
    moments: Callable[[str], Moments],
    column: Callable[[str], np.ndarray],
) -> dict[str, float]:
    """Scores from the outputs of `network` for all samples, those named in `has`.

    `moments` and `column` give those of an output; its rows, in the order of the
    samples, are asked for only where moments do not suffice. Beside gFID (or what it is
    called in this network): sFID, Inception score, and precision and recall, each where
    network and reference have what it takes.
    """
    name = DISTANCE_NAMES[network.name]
    numbers = {f"g{name}": frechet_distance(moments("features"), reference.moments)}
    if reference.spatial is not None and "spatial" in has:
        spatial = frechet_distance(moments("spatial"), reference.spatial)
        numbers[f"s{name}"] = spatial
    if network.name == "inception-v3" and "logits" in has:
        numbers["Inception score"] = inception_score(column("logits"))
    if reference.features is not None:
        numbers["precision"], numbers["recall"] = precision_and_recall(
            reference.features, column("features")
        )
    return numbers


def output_widths(network: FeatureNetwork, size: int) -> dict[str, int]:
    """How many numbers each output of `network` has for an image of that side."""
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    outputs = eqx.filter_eval_shape(network_outputs, network, image)
    return {name: output.size for name, output in outputs.items()}


def _made_by(record: SampleRecord | str) -> dict[str, Any]:
    """The fields of a card that describe how samples were made."""
    if isinstance(record, str):
        unknown = dict(tokenizer_hash="", latents_hash="", precision="unknown")
        return {**unknown, "origin": record}
    fields = {
        field.name: getattr(record, field.name) for field in dataclasses.fields(record)
    }
    # `group_size` changes rounding alone.
    no_fields = ("num_samples", "group_size")
    return {name: value for name, value in fields.items() if name not in no_fields}
