"""Captions and prompts: the vocabulary, token ids and text features."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from pathlib import Path

from jax.sharding import Mesh
from jaxtyping import Int, Int32
import numpy as np

from vtp_eqx.config import fit_dit, GenerateConfig, require, TextConfig
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import read_encoded
from vtp_eqx.data.prefetch import Encode
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.data.text.clip_bpe import clip_tokenizer, ClipTokenizer
from vtp_eqx.data.text.prompt_templates import IMAGENET_TEMPLATES
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.prompts import fill_templates, read_prompts
from vtp_eqx.mesh import local_mesh, replicate
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.text import TextFeatures
from vtp_eqx.models.tokenizer import Tokenizer


WORDS = "words.json"  # the vocabulary that a pre-training learned, beside its tokenizer
_LOOKS = 100  # ours: examples in which captions are looked for
_CAPTIONS = 20_000  # ours: what a vocabulary of its own is learned from
TextTokenizer = CaptionTokenizer | ClipTokenizer


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts to generate for, and their ids for a text tower, a row each."""

    texts: tuple[str, ...]
    ids: Int32[np.ndarray, "num context"]


def text_tokenizer_for(text: TextConfig, source: Source, path: Path) -> TextTokenizer:
    """The text tokenizer that `text.tokenizer` names: CLIP's, or one learned here.

    That is read from `path`, or where there is none learned from some captions.
    """
    if text.uses_clip:
        return clip_tokenizer()
    if path.exists():
        return CaptionTokenizer.load(path)
    captions = _captions_of(source, _CAPTIONS)
    found = [caption for caption in captions if caption]
    require(
        bool(found),
        f"Contrast needs captions; got none in {len(captions)} of {len(source)} "
        "examples: use other data, or set `contrast_weight` to 0.",
    )
    return train_tokenizer(found, text.vocabulary)


def caption_encoder(words: TextTokenizer, text: TextConfig) -> Encode:
    """Captions to ids for that text tower; what does not fit is cut."""
    require(
        words.vocabulary <= text.vocabulary,
        "The text tower must know every token of the captions; got a vocabulary of "
        f"{words.vocabulary} for {text.vocabulary}: raise `text.vocabulary`.",
    )
    return functools.partial(words.encode, context=text.context, truncate=True)


def encode_class_prompts(
    encode: Encode, text: TextConfig, names: Sequence[str], templates: Sequence[str]
) -> Int32[np.ndarray, "classes prompts context"]:
    """Ids of every class name in every template, which has `{}` for it.

    Without templates they are CLIP's 80, or `a {}` where `text` has other words.
    """
    lines = templates or (IMAGENET_TEMPLATES if text.uses_clip else ["a {}"])
    return np.stack([encode(texts) for texts in fill_templates(names, lines)])


def text_config_of(tokenizer: Tokenizer, where: Path | str) -> TextConfig:
    """The shape of a tokenizer's text tower; a `ValueError` where it has none."""
    text = tokenizer.config.text
    if text is None:
        raise ValueError(
            f"`tokenizer` ({where}, without a text tower) must have one to read "
            "captions: take one that was pre-trained with contrast."
        )
    return text


def find_words(text: TextConfig, *places: Path | str) -> TextTokenizer:
    """The vocabulary of a text tower: CLIP's, or the `words.json` of its run.

    That lies in one of the folders `places` or beside it. A `FileNotFoundError` where
    there is none.
    """
    if text.uses_clip:
        return clip_tokenizer()
    for place in map(Path, places):
        for folder in (place, place.parent):
            if (folder / WORDS).is_file():
                words = CaptionTokenizer.load(folder / WORDS)
                caption_encoder(words, text)  # refuses more words than it has
                return words
    raise FileNotFoundError(
        f"`tokenizer` ({places[0]}) must have the vocabulary of its text tower beside "
        f"it, a {WORDS}: copy that from the run of its pre-training."
    )


def open_captions(
    tokenizer: Tokenizer, where: Path | str, source: Source
) -> tuple[TextTokenizer, Encode]:
    """The vocabulary of the tokenizer at `where`, and captions to its ids.

    A caption that is too long is cut. An error where the tokenizer has no text tower,
    its vocabulary is missing or none of a hundred examples has a caption.
    """
    text = text_config_of(tokenizer, where)
    words = find_words(text, where)
    captions = _captions_of(source, _LOOKS)
    require(
        any(captions),
        f"`data` ({len(captions)} examples without a caption, of {len(source)}) must "
        "have captions for a generator of text: use other data, or leave text out.",
    )
    return words, caption_encoder(words, text)


def save_words(words: TextTokenizer | None, folder: Path) -> None:
    """Writes `words.json` where the vocabulary is a learned one."""
    if isinstance(words, CaptionTokenizer):
        words.save(folder / WORDS)


def text_reader(
    tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[Int[np.ndarray, "num context"]], TextFeatures]:
    """The text tower's features of a batch, on this process's devices of `mesh`."""
    devices = local_mesh(mesh)
    copied = replicate(tokenizer, devices)

    def read(ids: Int[np.ndarray, "num context"]) -> TextFeatures:
        return in_batches(
            Tokenizer.text_features, copied, ids, batch_size=len(ids), mesh=devices
        )

    return read


def fit_to_text(config: GenerateConfig, text: TextConfig) -> GenerateConfig:
    """`config` with the context and width of a text tower: see `fit_dit`."""
    values = {"text_context": text.context, "text_width": text.width}
    return fit_dit(config, values, "text tower")


def check_conditions(generator: Generator, texts: Sequence[str], where: object) -> None:
    """A `ValueError` unless texts are there where, and only where, they are read."""
    takes_text = generator.dit.config.condition == "text"
    require(
        takes_text or not texts,
        f"`prompt` ({texts[:1]}) needs a generator of captions, and {where} is one of "
        "classes: name another, or give `classes`.",
    )
    require(
        bool(texts) or not takes_text,
        f"`prompt` () must say what is drawn, because {where} is a generator of "
        "captions: give one or more.",
    )


def open_prompts(
    given: Sequence[str],
    file: Path | None,
    generator: Generator,
    tokenizer: Tokenizer,
    *places: Path,
) -> Prompts | None:
    """The prompts for a generator of captions, and `None` for one of classes.

    - `given` and those of `file`, one a line, in this order.
    - `places`: the generator, and where else its vocabulary may lie.

    A `ValueError` where a generator has prompts that it cannot read, or lacks some;
    where the tokenizer has no text tower; and of those of `encode_prompts`.
    """
    texts = (*given, *(read_prompts(file) if file else ()))
    check_conditions(generator, texts, places[0])
    if not texts:
        return None
    text = text_config_of(tokenizer, places[-1])
    return encode_prompts(texts, text, find_words(text, *places))


def encode_prompts(
    texts: Sequence[str], text: TextConfig, words: TextTokenizer
) -> Prompts:
    """Prompts as ids; a `ValueError` where one is empty or does not fit."""
    rows = []
    for prompt in texts:
        try:
            ids = words.encode([prompt], text.context)
        except ValueError as error:
            raise ValueError(
                f"`prompt` ({prompt!r:.60}) must fit into the {text.context} tokens of "
                "the text tower, with a start and an end: shorten it."
            ) from error
        require(
            int(np.argmax(ids)) > 1,  # the end token, after the start
            f"`prompt` ({prompt!r:.60}) must have a word or more: write one.",
        )
        rows.append(ids)
    return Prompts(tuple(texts), np.concatenate(rows))


def _captions_of(source: Source, most: int) -> list[str]:
    """Captions of examples evenly spread, so many at most; "" where there is none."""
    captions = []
    for row in np.linspace(0, len(source) - 1, min(most, len(source))).astype(int):
        try:
            captions.append(str(read_encoded(source, int(row)).get("caption", "")))
        except ValueError:  # unreadable: a run counts it, a vocabulary needs not
            captions.append("")
    return captions
