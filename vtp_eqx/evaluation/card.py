"""The evaluation card: what a number depends on, written beside the number.

A distance is called FID only where its features are those of Inception; between
rendered scenes it is `FD-scenes`. Numbers of different cards are not comparable.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from pathlib import Path
import sys
from typing import Any, Literal

from vtp_eqx.config import first_sentence, from_dict, require, SamplerConfig
from vtp_eqx.evaluation.extract import ExtractConfig, FeatureTable
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import FeatureName, FeatureNetwork
from vtp_eqx.files import write_text
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


LabelPolicy = Literal["none", "uniform", "balanced", "reference", "given"]
Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCard:
    """Everything a quality number depends on. Hashes are hexadecimal, one a content.

    `sampler`, `labels`, `generator_hash` and `generator_latents_hash` belong to
    generation: all are set, or none is, as when reconstructions are evaluated. Samples
    that others made have an `origin` in words, and no hashes of what made them.
    """

    num_samples: int  # images evaluated
    num_reference: int  # images they are compared with
    reference_hash: str  # of the reference set's config or files
    tokenizer_hash: str  # of the tokenizer's weights, in the precision they had
    latents_hash: str  # of encoder and latent statistics; "": never measured
    precision: str  # of the networks' arithmetic, such as "float32"
    latents_of: str = ""  # the images that those statistics are over, where known
    feature_network: FeatureName | Literal["none"] = "none"
    feature_hash: str = ""  # of the feature network's weights
    feature_origin: str = ""  # whose weights, and how images are prepared for them
    sampler: SamplerConfig | None = None
    labels: LabelPolicy = "none"  # how the classes of the samples were chosen
    generator_hash: str | None = None  # of the generator's averaged weights
    generator_latents_hash: str | None = None  # of the latents it was trained on
    guide_hash: str = ""  # of the weaker generator that guided, where one did
    labels_hash: str = ""  # of the samples' classes, where they are known
    seed: int = 0
    origin: str = ""  # who made the samples, where it was not this library
    protocol: str = ""  # settings that the numbers depend on beside all this
    crop: str = ""  # how images became squares
    images_hash: str = ""  # of the pixels evaluated
    num_skipped: int = 0  # files left out because they could not be read

    def __post_init__(self):
        for name in ("num_samples", "num_reference"):
            require(
                getattr(self, name) > 0,
                f"`{name}` counts images and must be positive; got "
                f"{getattr(self, name)}: evaluate some.",
            )
        for name in ("reference_hash", "precision"):
            require(
                bool(getattr(self, name)),
                f"`{name}` names what the number depends on and must not be empty: "
                "fill it in.",
            )
        require(
            bool(self.tokenizer_hash) != bool(self.origin)
            and not (self.latents_hash and self.origin),
            f"`tokenizer_hash` ({self.tokenizer_hash!r}) and `latents_hash` "
            f"({self.latents_hash!r}) must name the tokenizer, or be empty where there "
            f"is an `origin` ({self.origin!r}): fill in one or the other.",
        )
        require(
            (self.feature_network == "none") == (not self.feature_hash),
            "A feature network and the hash of its weights go together; got "
            f"{self.feature_network!r} and {self.feature_hash!r}: set both or neither.",
        )
        generation = {
            "sampler": self.sampler is not None,
            "labels": self.labels != "none",
            "generator_hash": bool(self.generator_hash),
            "generator_latents_hash": bool(self.generator_latents_hash),
        }
        require(
            len(set(generation.values())) == 1,
            "Generation is described whole or not at all; missing "
            f"{sorted(name for name, given in generation.items() if not given)}: set "
            "every one, or leave out the rest.",
        )
        require(
            not (self.origin and self.sampler),
            f"Samples of another origin have no sampler of ours; got {self.origin!r} "
            "with one: leave out either.",
        )
        require(
            self.generator_latents_hash in (None, self.latents_hash),
            f"`generator_latents_hash` ({self.generator_latents_hash}) must be the "
            f"`latents_hash` of the tokenizer ({self.latents_hash}): use the one that "
            "the generator was trained with.",
        )


def _check_number(name: str, number: float, card: EvaluationCard) -> None:
    is_inceptions = any(word in name.lower() for word in ("fid", "inception"))
    require(
        card.feature_network == "inception-v3" or not is_inceptions,
        "FID is a distance between Inception features, and an Inception score is of "
        f"Inception's classes; got the name {name!r} for numbers of "
        f"{card.feature_network!r}: give it another name.",
    )
    require(
        bool(abs(number) <= sys.float_info.max),  # no huge integer either
        f"A number on a card is finite; got {name} = {number}: find out why before "
        "it is written.",
    )


def write(
    path: str | os.PathLike[str],
    numbers: Mapping[str, float],
    card: EvaluationCard,
    *,
    num_evaluated: int,
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Writes `numbers` and the card they depend on as one JSON file, whole or not.

    `num_evaluated` is the count of images the numbers were really taken from, and
    `skipped` names the files that could not be read, with reasons. An error
    where the card says another, where a number is not finite, or where one is called
    FID without Inception features.
    """
    require(
        num_evaluated == card.num_samples,
        f"A card tells the number of images evaluated; got {card.num_samples} on the "
        f"card and {num_evaluated} evaluated: correct the card.",
    )
    for name, number in numbers.items():
        _check_number(name, number, card)
    content = {
        "numbers": {name: float(number) for name, number in numbers.items()},
        "card": dataclasses.asdict(card),
        "skipped": dict(skipped or {}),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def read(path: str | os.PathLike[str]) -> tuple[dict[str, float], EvaluationCard]:
    """The numbers and the card that `write` wrote to `path`, checked again.

    A `ValueError` where the file is damaged or of something else.
    """
    try:
        content: Any = json.loads(Path(path).read_bytes())
        found = from_dict(_Written, content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"A card is one that an evaluation wrote; got {path}, which is damaged or "
            f"of something else ({first_sentence(error)}): evaluate again."
        ) from error
    for name, number in found.numbers.items():
        _check_number(name, number, found.card)
    return dict(found.numbers), found.card


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Written:
    """What a file of a card has."""

    numbers: Mapping[str, float]
    card: EvaluationCard
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


def settings(**values: Any) -> str:
    """The settings that numbers depend on, in words, without those that are not set."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value)


def tokenizer_card(
    tokenizer: Tokenizer,
    seen: FeatureTable,
    images: Images,
    protocol: str,
    *,
    reference: FeatureTable | None = None,
    network: FeatureNetwork | None = None,
    **fields: Any,
) -> EvaluationCard:
    """A card of images that are compared with `reference`, or else with themselves.

    `network` is the one whose features are compared, and `fields` are others of the
    card, or take the place of those that are filled in here.
    """
    reference = reference or seen
    card = EvaluationCard(
        num_samples=seen.count,
        num_reference=reference.count,
        reference_hash=reference.images_hash,
        tokenizer_hash=weights_hash(tokenizer),
        # Nothing that is measured of a tokenizer alone needs its statistics.
        latents_hash=latents_hash(tokenizer) if tokenizer.is_measured else "",
        precision=tokenizer.precision,
        protocol=protocol,
        crop=repr(images.crop),
        images_hash=seen.images_hash,
        num_skipped=len(seen.skipped),
        **network_fields(network),
    )
    return dataclasses.replace(card, **fields)


def network_fields(network: FeatureNetwork | None) -> dict[str, Any]:
    """The fields of a card that name the feature network."""
    if network is None:
        return {}
    return {
        "feature_network": network.name,
        "feature_hash": network.hash,
        "feature_origin": network.origin,
    }


def write_numbers(
    numbers: Mapping[str, float],
    card: EvaluationCard,
    seen: FeatureTable,
    place: ExtractConfig,
    name: str,
) -> Numbers:
    """Writes `numbers` with their card to `card_NAME.json`, and returns them."""
    path = place.folder / f"card_{name}.json"
    write(path, numbers, card, num_evaluated=seen.count, skipped=seen.skipped)
    return dict(numbers)
