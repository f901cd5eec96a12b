"""Captioned scenes in WebDataset tars, as img2dataset writes pairs of the web."""

import dataclasses
import io
import json
from pathlib import Path
import tarfile
from typing import Literal

import numpy as np
from PIL import Image

from vtp_eqx.config import require
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.tar_writing import add_example
from vtp_eqx.files import atomic_path
from vtp_eqx.scenes.render import render, SceneConfig


FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# What is wrong with examples of real data sets.
DAMAGES = ("cut", "empty", "no image", "no caption", "long caption", "latin caption")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarConfig:
    """What the tars of a folder hold. All values are ours."""

    num: int = 24_000
    """Examples in all; consecutive groups of four differ in the shape alone."""
    size: int = 32
    """Side of the images in pixels."""
    per_shard: int = 1_000
    format: Literal["jpg", "png", "webp"] = "png"
    quality: int = 90
    """Of jpg and webp."""
    difficulty: float = 0.2
    seed: int = 0
    split: Literal["train", "validation"] = "train"
    corrupt: float = 0.0
    """Share of the examples that are spoiled."""

    def __post_init__(self):
        require(
            self.num > 0 and self.per_shard > 0 and 0 <= self.corrupt <= 1,
            "Tars hold examples, of which a share may be spoiled; got "
            f"{self.num} in shards of {self.per_shard}, {self.corrupt} of them: "
            "change one.",
        )

    @property
    def scenes(self) -> SceneConfig:
        """The scenes that are drawn."""
        return SceneConfig(size=self.size, difficulty=self.difficulty, seed=self.seed)

    @property
    def num_shards(self) -> int:
        """How many tars there are."""
        return -(-self.num // self.per_shard)


def write_tar(config: TarConfig, shard: int, path: Path) -> None:
    """Writes the tar of one shard; the same arguments write the same bytes.

    Each example is an image, `KEY.json` with caption and label, and `KEY.txt`. A file
    that is there is replaced at once, or not at all.
    """
    first = shard * config.per_shard
    examples = np.arange(first, min(first + config.per_shard, config.num))
    is_validation = config.split == "validation"
    start = config.scenes.validation_indices[0] if is_validation else 0
    scenes = render(config.scenes, start + examples)
    rng = CounterRNG(config.seed, scenes.index)
    is_spoiled = rng.uniform("tars/corrupt") < config.corrupt
    damages = rng.integer("tars/damage", len(DAMAGES))
    with atomic_path(path) as unfinished, tarfile.open(unfinished, "w") as tar:
        for row, example in enumerate(examples.tolist()):
            fields = {"label": int(scenes.label[row]), "index": int(scenes.index[row])}
            members = _members(scenes.image[row], scenes.caption[row], fields, config)
            if is_spoiled[row]:
                _spoil(members, DAMAGES[damages[row]], config.format)
            add_example(tar, f"{example:09d}", members)


def _members(
    image: np.ndarray, caption: str, fields: dict, config: TarConfig
) -> dict[str, bytes]:
    """The files of one example by suffix, in the order of img2dataset."""
    content = io.BytesIO()
    lossy = {} if config.format == "png" else {"quality": config.quality}
    Image.fromarray(image).save(content, FORMATS[config.format], **lossy)
    height, width, _ = image.shape
    record = {"caption": caption, **fields, "width": width, "height": height}
    return {
        config.format: content.getvalue(),
        "json": json.dumps(record).encode(),
        "txt": caption.encode(),
    }


def _spoil(members: dict[str, bytes], damage: str, suffix: str) -> None:
    """Damages the files of one example in place."""
    if damage == "cut":
        members[suffix] = members[suffix][: len(members[suffix]) // 2]
    elif damage == "empty":
        members[suffix] = b""
    elif damage == "no image":
        del members[suffix]
    elif damage == "no caption":
        members["txt"] = b""
    elif damage == "long caption":
        members["txt"] = (members["txt"] + b" ") * (100_000 // len(members["txt"]))
    else:
        members["txt"] = members["txt"] + b" caf\xe9"
