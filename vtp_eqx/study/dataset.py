"""The scenes of a study as arrays in memory, prepared once on disk."""

from collections.abc import Callable
import dataclasses
import logging
from pathlib import Path

from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.sources import load_arrays, TfdsSource
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.files import exclusive_folder
from vtp_eqx.scenes.render import COLORS, NAMES
from vtp_eqx.scenes.tfds_builder import prepare_scenes
from vtp_eqx.study.run_spec import Labels, RunSpec


VOCABULARY = 400  # ours: every word of the captions is one token
WORDS = "words.json"


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
        return self.label if of == "class" else self.label % len(COLORS)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Both splits, and what their captions are encoded with."""

    train: Split
    validation: Split
    words: CaptionTokenizer


def prepare(spec: RunSpec, folder: Path, say: Callable[[str], None]) -> None:
    """Renders the scenes of a run and learns their vocabulary, where not yet done.

    Of two studies that prepare the same scenes at once, the later one waits, and takes
    what the earlier one made. The vocabulary is written last.
    """
    if (folder / WORDS).exists():
        return
    # What TensorFlow Datasets has to say there is not for the reader of a study.
    logging.getLogger("absl").setLevel(logging.ERROR)
    count = spec.data.num_train + spec.data.num_validation
    say(f"Rendering {count:,} scenes of {spec.data.size} pixels into {folder} ...")
    with exclusive_folder(folder):
        if not (folder / WORDS).exists():
            captions = _arrays(spec, folder, "train")["caption"].tolist()
            train_tokenizer(captions, VOCABULARY).save(folder / WORDS)


def load_dataset(spec: RunSpec, folder: Path) -> Dataset:
    """The scenes that `prepare` left in `folder`."""
    words = CaptionTokenizer.load(folder / WORDS)
    # Latents that learn from no captions may be aligned with a network that does.
    text = (spec.vision or spec.pretrain).tokenizer.text
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
        arrays = _arrays(spec, folder, name)
        caption = arrays["caption"].tolist()
        ids = None if text is None else words.encode(caption, text.context)
        return Split(
            image=arrays["image"],
            caption=caption,
            caption_ids=ids,
            label=arrays["label"].astype(np.int32),
            attributes={name: arrays[name].astype(np.int64) for name in NAMES},
        )

    return Dataset(split("train"), split("validation"), words)


def _arrays(spec: RunSpec, folder: Path, split: str) -> dict[str, np.ndarray]:
    return load_arrays(TfdsSource(prepare_scenes(spec.data, folder), split))
