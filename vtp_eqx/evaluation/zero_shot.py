"""Zero-shot classification by the similarity of an image to texts of each class."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.evaluation.accuracy import check_rows, top_accuracy, unit
from vtp_eqx.evaluation.batches import BATCH, in_batches
from vtp_eqx.evaluation.card import Numbers, settings, tokenizer_card, write_numbers
from vtp_eqx.evaluation.extract import extract_features, ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.labels import first_labels
from vtp_eqx.evaluation.prompts import check_class_names, fill_templates
from vtp_eqx.models.arrays import arrays_hash
from vtp_eqx.models.tokenizer import Tokenizer


@runtime_checkable
class TextIds(Protocol):
    """A text tokenizer: ids of texts, `context` of them each."""

    def encode(
        self, texts: Sequence[str], context: int, *, truncate: bool = False
    ) -> Int[np.ndarray, "n context"]: ...


def zero_shot(
    tokenizer: Tokenizer,
    words: TextIds,
    class_names: Sequence[str],
    templates: Sequence[str],
    images: Images,
    place: ExtractConfig,
) -> Numbers:
    """Shares of images whose own class is the most similar, or among the five most.

    A class is the mean of the unit-norm embeddings of its name in every template
    (`{}` stands for the name), at norm 1 again: Radford et al. 2021 (CLIP),
    https://arxiv.org/abs/2103.00020, section 3.1.4.
    """
    folders = getattr(images.source, "class_names", ())
    check_class_names(class_names, first_labels(images), folders)
    classes = embed_classes(tokenizer, words, class_names, templates)
    seen = extract_features(embed, tokenizer, images, place, stage="zero-shot")
    labels = seen.labels(images)
    check_class_names(class_names, labels, folders)
    embeddings = seen.column("embedding")
    protocol = settings(templates=len(templates), classes=len(class_names))
    card = tokenizer_card(
        tokenizer, seen, images, protocol,
        num_reference=len(class_names) * len(templates),
        reference_hash=arrays_hash({"classes": classes}),
    )  # fmt: skip
    numbers = {
        f"zero-shot top-{among}": zero_shot_accuracy(
            embeddings, labels, classes, among=among
        )
        for among in (1, 5)
        if among == 1 or among < len(class_names)
    }
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
        "Zero-shot classes are texts; got a tokenizer without a text tower: take one "
        "that was trained with captions.",
    )
    prompts = fill_templates(class_names, templates)
    assert tokenizer.config.text is not None
    context = tokenizer.config.text.context
    ids = [words.encode(texts, context, truncate=True) for texts in prompts]
    return embed_prompts(tokenizer, np.stack(ids))


def embed_prompts(
    tokenizer: Tokenizer,
    ids: Int[np.ndarray, "classes prompts context"],
    *,
    batch_size: int = BATCH,
) -> Float[np.ndarray, "classes embed"]:
    """One unit-norm embedding a class, from the ids of its prompts."""
    num_classes, count, context = ids.shape
    texts = in_batches(
        Tokenizer.embed_text, tokenizer, ids.reshape(-1, context), batch_size=batch_size
    )
    return unit(unit(texts.reshape(num_classes, count, -1)).mean(axis=1))


def zero_shot_accuracy(
    images: Float[np.ndarray, "count embed"],
    labels: Int[np.ndarray, " count"],
    classes: Float[np.ndarray, "classes embed"],
    *,
    among: int = 1,
) -> float:
    """Share of images whose class is among the most similar ones (by cosine)."""
    check_rows("images", images, labels)
    require(
        int(labels.max()) < len(classes),
        f"Every label needs a class embedding; got label {labels.max()} and "
        f"{len(classes)} classes: embed the others.",
    )
    return top_accuracy(unit(images) @ unit(classes).T, labels, among)
