"""What a study needs of its data, whatever they show, and the data in memory."""

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.config import require, TextConfig
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.evaluation.networks import FeatureNetwork
from vtp_eqx.evaluation.scene_metrics import SceneSet
from vtp_eqx.files import exclusive_folder
from vtp_eqx.frozen.scene_network import Reading


WORDS = "words.json"
# What a generator is conditioned on: the class, an attribute, or nothing.
Labels = Literal["class", "color", "none"]
Attributes = Mapping[str, Int[np.ndarray, " num"]]


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


@runtime_checkable
class DataKind(Protocol):
    """What a study needs of its data. `folder` is where the study keeps them."""

    @property
    def size(self) -> int:
        """The side of images in pixels."""
        ...

    noun: ClassVar[str]
    """What reports call the images: "scenes"."""

    is_ours: ClassVar[bool]
    """Whether reports show the images: those of others stay where they are."""

    group: ClassVar[int]
    """Consecutive training images that resemble each other and share a batch."""

    vocabulary: ClassVar[int]
    """The most tokens of captions."""

    @property
    def num_labels(self) -> Mapping[Labels, int]:
        """What a generator may be conditioned on, and how many values that has."""
        ...

    probed: ClassVar[tuple[str, ...]]
    """The attributes that probes are asked for."""

    distance: ClassVar[str]
    """What a Frechet distance in the features of `network` is called."""

    definitions: ClassVar[str]
    """What the columns of a report mean, as a list in Markdown."""

    def check_subset(self, num_images: int) -> None:
        """Raises `ValueError` where the first training images are no fair subset."""
        ...

    def prepare(self, folder: Path, say: Callable[[str], None]) -> None:
        """Makes what is missing of images and network."""
        ...

    def load(self, folder: Path, split: str) -> dict[str, np.ndarray]:
        """`image`, `caption`, `label` and attributes of all rows of a split."""
        ...

    def parts(self, folder: Path) -> tuple[int, ...]:
        """See `Dataset.parts`."""
        ...

    def prompts(self, folder: Path, train: Attributes) -> dict[str, list[list[str]]]:
        """See `Dataset.prompts`; `train` are the attributes of training images."""
        ...

    def network(self, folder: Path) -> FeatureNetwork:
        """The frozen network that reads samples."""
        ...

    def network_hash(self, folder: Path) -> str:
        """The hash of its weights, or "" where it is not trained yet."""
        ...

    @property
    def class_network(self) -> Path | None:
        """The folder of a network that learned the class alone, for FD-classes."""
        ...

    def sample_labels(
        self, train: Int[np.ndarray, " num"], num_samples: int, of: Labels
    ) -> Int[np.ndarray, " samples"]:
        """What samples are asked for, where training images have the labels `train`."""
        ...

    def accuracy(
        self, reading: Reading, labels: Int[np.ndarray, " num"], of: Labels
    ) -> dict[str, float]:
        """Shares of images that show what they were asked for."""
        ...

    def sample_numbers(
        self, samples: SceneSet, real: SceneSet, attributes: Attributes
    ) -> dict[str, float]:
        """Numbers of samples that data of this kind alone have.

        `attributes` are those of the `real` images.
        """
        ...


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
