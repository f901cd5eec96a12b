"""The published protocols, each one call: numbers, and the card they are written with.

Each streams its images through a survey, so that it can be killed and started again,
and writes `card_<protocol>.json` into the folder of its workplace.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.batches import BYTES, reconstruct
from vtp_eqx.evaluation.card import EvaluationCard, write
from vtp_eqx.evaluation.extract import (
    extract_features,
    ExtractConfig,
    FeatureTable,
    Images,
)
from vtp_eqx.evaluation.frechet import frechet_distance
from vtp_eqx.evaluation.networks import FeatureNetwork, PerceptualNetwork
from vtp_eqx.evaluation.reconstruction import psnr, ssim
from vtp_eqx.evaluation.understanding import (
    class_embeddings,
    neighbor_accuracy,
    unit,
)
from vtp_eqx.models.arrays import arrays_hash, latents_hash, weights_hash
from vtp_eqx.models.tokenizer import Tokenizer


Numbers = dict[str, float]


@runtime_checkable
class TextIds(Protocol):
    """A text tokenizer: ids of texts, `context` of them each."""

    def encode(
        self, texts: Sequence[str], context: int, *, truncate: bool = False
    ) -> Int[np.ndarray, "n context"]: ...


class MeasuredTokenizer(eqx.Module):
    """A tokenizer and the networks that judge its reconstructions."""

    tokenizer: Tokenizer
    network: FeatureNetwork
    perceptual: PerceptualNetwork | None


def reconstruction(
    tokenizer: Tokenizer,
    images: Images,
    network: FeatureNetwork,
    place: ExtractConfig,
    *,
    perceptual: PerceptualNetwork | None = None,
    num_samples: int | None = None,
) -> Numbers:
    """PSNR, SSIM, rFID (or what it is called in this network) and maybe LPIPS.

    All of reconstructions that were clipped and rounded to bytes, as they would be
    saved: PSNR, SSIM and LPIPS are averaged over images, and the distance is to the
    same images. `num_samples` is an error where another number of images was read.
    """
    network.check_size(images.crop.size)
    of = {
        "tokenizer": weights_hash(tokenizer),
        "network": network.hash,
        "perceptual": "" if perceptual is None else perceptual.hash,
        "pixels": BYTES,
    }
    judges = MeasuredTokenizer(tokenizer, network, perceptual)
    seen = extract_features(
        compare, judges, images, place, stage="reconstruction", of=of
    )
    seen.check_count(num_samples)
    numbers = {
        name: float(np.mean(seen.column(name), dtype=np.float64))
        for name in ("PSNR", "SSIM", *(["LPIPS"] if perceptual else []))
    }
    judge = "" if perceptual is None else f"{perceptual.hash} {perceptual.origin}"
    protocol = f"{BYTES}, {settings(perceptual=judge.rstrip())}".removesuffix(", ")
    card = dataclasses.replace(
        tokenizer_card(tokenizer, seen, images, protocol),
        feature_network=network.name,
        feature_hash=network.hash,
        feature_origin=network.origin,
    )
    numbers[f"r{card.distance_name}"] = frechet_distance(
        seen.moments("features"), seen.moments("real features")
    )
    return write_numbers(numbers, card, seen, place, "reconstruction")


def compare(judges: MeasuredTokenizer, image: Any) -> dict[str, Any]:
    """What is measured of one image and its reconstruction."""
    again = reconstruct(judges.tokenizer, image)
    answers = {
        "PSNR": psnr(again, image),
        "SSIM": ssim(again, image),
        "features": judges.network(again).features,
        "real features": judges.network(image).features,
    }
    if judges.perceptual is not None:
        answers["LPIPS"] = judges.perceptual(again, image)
    return answers


def zero_shot(
    tokenizer: Tokenizer,
    words: TextIds,
    class_names: Sequence[str],
    templates: Sequence[str],
    images: Images,
    place: ExtractConfig,
    *,
    num_samples: int | None = None,
) -> Numbers:
    """Shares of images whose own class is the most similar, or among the five most.

    A class is the mean of the unit-norm embeddings of its name in every template
    (`{}` stands for the name), at norm 1 again: Radford et al. 2021 (CLIP),
    https://arxiv.org/abs/2103.00020, section 3.1.4.
    """
    # Only folders know how many classes there are; of others, the labels tell.
    known = len(getattr(images.source, "class_names", class_names))
    require(
        known == len(class_names),
        f"Every class has one name, in the order of labels; got {len(class_names)} "
        f"names and {known} classes: use the list that belongs to these images.",
    )
    classes = embed_classes(tokenizer, words, class_names, templates)
    of = {"tokenizer": weights_hash(tokenizer)}
    seen = extract_features(embed, tokenizer, images, place, stage="zero-shot", of=of)
    seen.check_count(num_samples)
    labels = seen.column("label")
    require(
        int(labels.max()) < len(class_names),
        f"Every class has one name, in the order of labels; got {len(class_names)} "
        f"names and the label {labels.max()}: use the list of these images.",
    )
    logits = 100 * unit(seen.column("embedding")) @ classes.T
    protocol = settings(templates=len(templates), classes=len(class_names))
    card = dataclasses.replace(
        tokenizer_card(tokenizer, seen, images, protocol),
        num_reference=len(class_names) * len(templates),
        reference_hash=arrays_hash({"classes": classes}),
    )
    numbers = {"zero-shot top-1": top_accuracy(logits, labels, 1)}
    if len(class_names) > 5:
        numbers["zero-shot top-5"] = top_accuracy(logits, labels, 5)
    return write_numbers(numbers, card, seen, place, "zero_shot")


def embed(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The embedding of one image."""
    return {"embedding": tokenizer.embed_image(image)}


def embed_classes(
    tokenizer: Tokenizer,
    words: TextIds,
    class_names: Sequence[str],
    templates: Sequence[str],
) -> Float[np.ndarray, "classes embed"]:
    """One unit-norm embedding a class."""
    require(
        tokenizer.config.text is not None,
        "Zero-shot classes are texts; got a tokenizer without a text tower: judge one "
        "that was trained with captions.",
    )
    require(
        len(class_names) > 0
        and len(templates) > 0
        and all("{}" in template for template in templates),
        "Prompts are class names in templates with `{}`; got "
        f"{len(class_names)} names and {list(templates)[:3]}: give both.",
    )
    assert tokenizer.config.text is not None
    context = tokenizer.config.text.context
    prompts = []
    for name in class_names:
        texts = [template.replace("{}", name) for template in templates]
        ids = words.encode(texts, context, truncate=True)
        prompts.append(np.asarray(_embed_texts(tokenizer, jnp.asarray(ids))))
    return class_embeddings(np.stack(prompts))


@eqx.filter_jit
def _embed_texts(tokenizer: Tokenizer, ids: Any) -> Any:
    return jax.vmap(tokenizer.embed_text)(ids)


def neighbors(
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
    *,
    counts: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    num_samples: int | None = None,
) -> Numbers:
    """Accuracy of votes among the nearest training images, for each count of them.

    In the summary of the last block, at norm 1: DINOv2's evaluation.
    """
    check_classes(train, test)
    of = {"tokenizer": weights_hash(tokenizer)}
    known, asked = (
        extract_features(
            summary, tokenizer, images, place, stage=f"{name} features", of=of
        )
        for name, images in (("training", train), ("test", test))
    )
    asked.check_count(num_samples)
    card = dataclasses.replace(
        tokenizer_card(tokenizer, asked, test, settings(temperature=temperature)),
        num_reference=known.count,
        reference_hash=known.images_hash,
    )
    bank, labels = known.column("summary"), known.column("label")
    numbers = {
        f"{count} nearest neighbors": neighbor_accuracy(
            bank,
            labels,
            asked.column("summary"),
            asked.column("label"),
            num_neighbors=count,
            temperature=temperature,
        )
        for count in counts
    }
    return write_numbers(numbers, card, asked, place, "neighbors")


def summary(tokenizer: Tokenizer, image: Any) -> dict[str, Any]:
    """The summary of one image."""
    return {"summary": tokenizer.features(image)[-1].cls}


def top_accuracy(
    logits: Float[np.ndarray, "count classes"],
    labels: Int[np.ndarray, " count"],
    among: int,
) -> float:
    """Share of rows whose label has one of the `among` largest logits."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :among]
    return float(np.mean((best == labels[:, None]).any(axis=1)))


def check_classes(train: Images, test: Images) -> None:
    """An error where two folders of classes have others, so that labels differ."""
    known, asked = (
        getattr(images.source, "class_names", None) for images in (train, test)
    )
    require(
        known is None or asked is None or known == asked,
        "Training and test images have the same classes; these are in one only: "
        f"{sorted({*(known or ())} ^ {*(asked or ())})[:5]}: use folders that match.",
    )


def settings(**values: Any) -> str:
    """What numbers depend on, in words, without what is not set."""
    return ", ".join(f"{name} {value}" for name, value in values.items() if value)


def tokenizer_card(
    tokenizer: Tokenizer, seen: FeatureTable, images: Images, protocol: str
) -> EvaluationCard:
    """A card of images that are compared with nothing but themselves."""
    return EvaluationCard(
        num_samples=seen.count,
        num_reference=seen.count,
        reference_hash=seen.images_hash,
        tokenizer_hash=weights_hash(tokenizer),
        # Nothing that is measured of a tokenizer alone needs its statistics.
        latents_hash=latents_hash(tokenizer) if tokenizer.is_measured else "",
        precision=tokenizer.precision,
        protocol=protocol,
        crop=repr(images.crop),
        images_hash=seen.images_hash,
        num_skipped=len(seen.skipped),
    )


def write_numbers(
    numbers: Mapping[str, float],
    card: EvaluationCard,
    seen: FeatureTable,
    place: ExtractConfig,
    name: str,
) -> Numbers:
    """`numbers`, after they were written with their card."""
    path = place.folder / f"card_{name}.json"
    write(path, numbers, card, num_evaluated=seen.count, skipped=seen.skipped)
    return dict(numbers)
