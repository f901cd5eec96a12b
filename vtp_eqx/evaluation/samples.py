"""How good samples of a generator are."""

import dataclasses
from typing import Any

from vtp_eqx.config import require
from vtp_eqx.evaluation.card import EvaluationCard, write
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig, Images
from vtp_eqx.evaluation.frechet import frechet_distance
from vtp_eqx.evaluation.networks import FeatureNetwork, network_outputs, output_names
from vtp_eqx.evaluation.precision_recall import inception_score, precision_and_recall
from vtp_eqx.evaluation.reference import Reference
from vtp_eqx.evaluation.sample_record import SampleRecord


def evaluate_samples(
    samples: Images,
    record: SampleRecord | str,
    network: FeatureNetwork,
    reference: Reference,
    place: ExtractConfig,
    *,
    num_samples: int,
) -> dict[str, float]:
    """The distance of samples to real images, and what else network and reference give.

    Beside gFID (or what it is called in this network): sFID where both have spatial
    features, the Inception score where the network is Inception, precision and recall
    where the reference has the features of its images. `record` tells what made the
    samples, or is their origin in words. Writes `card_generation.json`.
    """
    size = samples.crop.size
    network.check_size(size)
    reference.check_network(network.name, network.hash)
    require(
        reference.image_size in (None, size),
        f"Samples are compared with images of their size; got {size} pixels and a "
        f"reference of {reference.image_size}: make one for {size}.",
    )
    if isinstance(record, SampleRecord):
        require(
            record.num_samples == num_samples,
            f"All samples are judged; got {num_samples} to judge, and a record of "
            f"{record.num_samples}: judge all, or sample again.",
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
    name = card.distance_name
    numbers = {
        f"g{name}": frechet_distance(seen.moments("features"), reference.moments)
    }
    has = output_names(network, size)
    if reference.spatial is not None and "spatial" in has:
        spatial = frechet_distance(seen.moments("spatial"), reference.spatial)
        numbers[f"s{name}"] = spatial
    if network.name == "inception-v3" and "logits" in has:
        numbers["Inception score"] = inception_score(seen.column("logits"))
    if reference.features is not None:
        numbers["precision"], numbers["recall"] = precision_and_recall(
            reference.features, seen.column("features")
        )
    path = place.folder / "card_generation.json"
    write(path, numbers, card, num_evaluated=seen.count, skipped=seen.skipped)
    return numbers


def _made_by(record: SampleRecord | str) -> dict[str, Any]:
    """The fields of a card that tell what made samples."""
    if isinstance(record, str):
        unknown = dict(tokenizer_hash="", latents_hash="", precision="unknown")
        return {**unknown, "origin": record}
    fields = {
        field.name: getattr(record, field.name) for field in dataclasses.fields(record)
    }
    return {name: value for name, value in fields.items() if name != "num_samples"}
