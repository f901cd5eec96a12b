"""The data of a study, whatever they show: prepared on disk, and in memory."""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path

from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.config import require, TextConfig
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.files import exclusive_folder
from vtp_eqx.scenes.render import SceneConfig
from vtp_eqx.study.emoji_data import EmojiData
from vtp_eqx.study.scene_kind import Labels, SceneKind


WORDS = "words.json"
DataConfig = SceneConfig | EmojiData
DataKind = SceneKind | EmojiData  # with the same names: see `SceneKind`


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, row by row; `caption_ids` is `None` where no text tower reads it."""

    image: UInt8[np.ndarray, "num height width 3"]
    caption: list[str]
    caption_ids: Int[np.ndarray, "num context"] | None
    label: Int[np.ndarray, " num"]
    attributes: dict[str, Int[np.ndarray, " num"]]

    def labels(self, of: Labels) -> Int[np.ndarray, " num"]:
        """What a generator is conditioned on, counted from 0."""
        if of == "none":
            return np.zeros_like(self.label)
        return self.label if of == "class" else self.attributes[of].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Both splits, and what their captions are encoded with.

    - `parts`: the sizes of consecutive parts of the training images that batches of a
      pre-training are of one each; none where they need not be.
    - `prompts`: texts for each value of the attributes that have any, in their order.
    """

    train: Split
    validation: Split
    words: CaptionTokenizer
    parts: tuple[int, ...] = ()
    prompts: Mapping[str, list[list[str]]] = dataclasses.field(default_factory=dict)


def data_kind(data: DataConfig) -> DataKind:
    """What a study needs of these data."""
    return SceneKind(data) if isinstance(data, SceneConfig) else data


def prepare(kind: DataKind, folder: Path, say: Callable[[str], None]) -> None:
    """Makes the data of a run and learns their vocabulary, where not yet done.

    Of two studies that prepare the same data at once, the later one waits, and takes
    what the earlier one made. The vocabulary is written last.
    """
    if (folder / WORDS).exists():
        return
    with exclusive_folder(folder):
        if not (folder / WORDS).exists():
            kind.prepare(folder, say)
            captions = kind.load(folder, "train")["caption"].tolist()
            train_tokenizer(captions, kind.vocabulary).save(folder / WORDS)


def load_dataset(kind: DataKind, text: TextConfig | None, folder: Path) -> Dataset:
    """The data that `prepare` left in `folder`, with captions for `text`, if any."""
    words = CaptionTokenizer.load(folder / WORDS)
    require(
        text is None or text.tokenizer != "clip",
        "`text.tokenizer` ('clip') must be 'learned' in a study, which learns its own "
        "vocabulary: change it.",
    )
    require(
        text is None or words.vocabulary <= text.vocabulary,
        "The text tower must know every token of the captions; got a vocabulary of "
        f"{words.vocabulary} for {text}: raise `text.vocabulary`.",
    )

    def split(name: str) -> Split:
        arrays = kind.load(folder, name)
        image, label = arrays.pop("image"), arrays.pop("label")
        caption = arrays.pop("caption").tolist()
        return Split(
            image=image,
            caption=caption,
            caption_ids=None if text is None else words.encode(caption, text.context),
            label=label.astype(np.int32),
            attributes={name: arrays[name].astype(np.int64) for name in arrays},
        )

    train, validation = split("train"), split("validation")
    prompts = kind.prompts(folder, train.attributes)
    return Dataset(train, validation, words, kind.parts(folder), prompts)
