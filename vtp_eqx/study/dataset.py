"""The scenes of a study as arrays in memory, prepared once on disk."""

import dataclasses
from pathlib import Path

from jaxtyping import Int, UInt8
import numpy as np

from ..config import require
from ..data.captions import CaptionTokenizer, train_tokenizer
from ..data.scenes import GROUP, NUM_CLASSES
from ..data.scenes_tfds import prepare_scenes
from ..data.sources import load_arrays, TfdsSource
from .point import Point


VOCABULARY = 400  # ours: every word of the captions is one token


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, row by row; `caption_ids` is `None` where no text tower reads it."""

    image: UInt8[np.ndarray, "num height width 3"]
    caption: list[str]
    caption_ids: Int[np.ndarray, "num context"] | None
    label: Int[np.ndarray, " num"]
    attributes: dict[str, Int[np.ndarray, " num"]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Both splits, what their captions are encoded with, and what a class is."""

    train: Split
    validation: Split
    words: CaptionTokenizer
    num_classes: int = NUM_CLASSES
    group: int = GROUP
