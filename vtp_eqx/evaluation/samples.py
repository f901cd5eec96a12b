"""Generation quality: gFID, sFID, Inception score, precision and recall of samples.

Of one set of samples, or of several that are measured the same way and shown side by
side, such as unguided and guided ones.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.card import EvaluationCard, network_fields, write_numbers
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig, FeatureTable
from vtp_eqx.evaluation.frechet import frechet_distance
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import DISTANCE_NAMES, FeatureNetwork, network_outputs
from vtp_eqx.evaluation.precision_recall import inception_score, precision_and_recall
from vtp_eqx.evaluation.reference import Reference
from vtp_eqx.evaluation.sample_record import SampleRecord
from vtp_eqx.models.arrays import arrays_hash


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Samples, and the record of what made them, or their origin in words.

    Its numbers go to the subfolder `name`; where that is "", to the folder itself.
    """

    images: Images
    record: SampleRecord | str
    name: str = ""

    @property
    def title(self) -> str:
        """How they were guided, in a few words, or else their origin."""
        if isinstance(self.record, str):
            return self.record
        sampler = self.record.sampler
        if sampler.guidance == 1:
            return "unguided"
        words = [f"guided by {sampler.guidance:g}"]
        if sampler.guide == "generator":
            words[0] += " from a weaker generator"
        if (sampler.guidance_start, sampler.guidance_end) != (0, 1):
            words.append(f"t {sampler.guidance_start:g} to {sampler.guidance_end:g}")
        if sampler.guided_channels is not None:
            words.append(f"{sampler.guided_channels} channels")
        return ", ".join(words)


def evaluate_sample_sets(
    sets: Sequence[SampleSet],
    measures: Mapping[str, tuple[FeatureNetwork, Reference]],
    place: ExtractConfig,
) -> list[dict[str, float]]:
    """The numbers of each set by each network, each written with a card.

    `measures` has networks and their references by the subfolder of their cards: "" for
    the first. Numbers of the others are of distances alone. An error before any image
    is read where names are alike, or a reference does not fit.
    """
    names = [samples.name for samples in sets]
    require(
        len(set(names)) == len(names),
        f"`sets` ({names}) must have different names, by which their numbers are found "
        "again: rename a folder.",
    )
    for samples in sets:
        for network, reference in measures.values():
            check_comparable(network, reference, samples.images.crop.size)
    results = []
    for samples in sets:
        numbers: dict[str, float] = {}
        for folder, (network, reference) in measures.items():
            own = place.folder / samples.name / folder
            found = evaluate_samples(
                samples.images, samples.record, network, reference,
                dataclasses.replace(place, folder=own),
            )  # fmt: skip
            numbers |= {
                name: value for name, value in found.items() if name not in numbers
            }
        results.append(numbers)
    return results


def evaluate_samples(
    samples: Images,
    record: SampleRecord | str,
    network: FeatureNetwork,
    reference: Reference,
    place: ExtractConfig,
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
            samples.num_samples in (None, record.num_samples),
            f"All samples are evaluated; got {samples.num_samples} to evaluate, and a "
            f"record of {record.num_samples}: evaluate all, or sample again.",
        )
        samples = dataclasses.replace(samples, num_samples=record.num_samples)
    seen = extract_features(network_outputs, network, samples, place, stage="samples")
    card = EvaluationCard(
        **_made_by(record),
        num_samples=seen.count,
        num_reference=reference.moments.count,
        reference_hash=reference.hash,
        **network_fields(network),
        crop=repr(samples.crop),
        images_hash=seen.images_hash,
        num_skipped=len(seen.skipped),
    )
    numbers = generation_numbers(network, reference, seen)
    return write_numbers(numbers, card, seen, place, "generation")


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
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    shapes: dict[str, Any] = eqx.filter_eval_shape(network_outputs, network, image)
    for name, moments in (
        ("features", reference.moments),
        ("spatial", reference.spatial),
    ):
        if moments is None or name not in shapes:
            continue
        width = shapes[name].size
        require(
            moments.mean.size == width,
            f"`reference` ({moments.mean.size} {name}) must have as many as the "
            f"{network.name} gives ({width}): make it again with this network, or "
            "choose the network that made it.",
        )


def generation_numbers(
    network: FeatureNetwork, reference: Reference, seen: FeatureTable
) -> dict[str, float]:
    """Scores from what `network_outputs` gave of all samples, in their order.

    Beside gFID (or what it is called in this network): sFID, Inception score, and
    precision and recall, each where network and reference have what it takes.
    """
    name = DISTANCE_NAMES[network.name]
    of_samples = seen.moments("features")
    numbers = {f"g{name}": frechet_distance(of_samples, reference.moments)}
    if reference.spatial is not None and seen.has("spatial"):
        spatial = frechet_distance(seen.moments("spatial"), reference.spatial)
        numbers[f"s{name}"] = spatial
    if network.name == "inception-v3" and seen.has("logits"):
        numbers["Inception score"] = inception_score(seen.column("logits"))
    if reference.features is not None:
        numbers["precision"], numbers["recall"] = precision_and_recall(
            reference.features, seen.column("features")
        )
    return numbers


def _made_by(record: SampleRecord | str) -> dict[str, Any]:
    """The fields of a card that describe how samples were made."""
    if isinstance(record, str):
        unknown = dict(tokenizer_hash="", latents_hash="", precision="unknown")
        return {**unknown, "origin": record}
    # `group_size` changes rounding alone.
    no_fields = ("num_samples", "group_size", "prompts")
    fields = {
        name: value for name, value in vars(record).items() if name not in no_fields
    }
    if record.prompts:  # labels are then their numbers, which say nothing of texts
        fields["labels_hash"] = arrays_hash({"prompts": np.array(record.prompts)})
    return fields
