"""Captioned emoji of several vendors as the data of a study: real pictures.

    python -m vtp_eqx.study.emoji_data FOLDER

trains the network that reads samples, in a process of its own. `FOLDER` has
`emoji_data.json` and the arrays of both splits. One machine writes the same bytes on
one thread of a processor, as `EmojiData.prepare` starts it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import ClassVar

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import as_json, from_dict, require
from vtp_eqx.config.fields import location
from vtp_eqx.data.emoji_tars import EmojiConfig, GROUPS, HELD_OUT, RECORD
from vtp_eqx.data.tars import TarSource
from vtp_eqx.evaluation.networks import FeatureNetwork, scene_features
from vtp_eqx.evaluation.prompts import fill_templates, read_class_names, read_templates
from vtp_eqx.evaluation.scene_metrics import (
    attribute_agreement,
    read_scenes,
    SceneSet,
)
from vtp_eqx.files import write_npz, write_text
from vtp_eqx.frozen.scene_network import (
    Reading,
    RECORD as NETWORK_RECORD,
    recorded_accuracy,
    save_scene_network,
    scene_network_hash,
    SceneNetworkConfig,
)
from vtp_eqx.runs.train_scene_network import SceneNetworkTraining, train_scene_network
from vtp_eqx.study.scene_kind import Attributes, Labels


CONFIG, CLASSES, TEMPLATES = "emoji_data.json", "classes.txt", "templates.txt"
# Of one thread on one processor, which sums in one order.
ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
NETWORK = "network"  # the folder of the network that reads samples
DEFINITIONS = """\
- **FD-emoji**: Fréchet distance between samples and held-out emoji in the features of
  a small network that learned classes and groups from the training emoji; it is not
  FID. Its floor is that of as many training emoji, whose labels samples are asked for.
- **PSNR** of reconstructions of held-out emoji, clipped and rounded to bytes.
- **class right, group right**: the share of samples in which that network sees the
  class that the generator was asked for, or its group. It is not always right about
  real emoji either.
- **class read off latents**: held-out accuracy of a linear classifier on the mean
  latent of an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmojiData:
    """The emoji of a folder of tars, and the network that reads their samples.

    A class is a subgroup of Unicode's, and a group has several.
    """

    options: EmojiConfig
    version: str  # of the packages
    digest: str  # of the names and sizes of all members of the tars
    num_train: int
    groups: tuple[int, ...]  # of each class, counted from 0
    network_training: SceneNetworkTraining
    tars: str = location()

    noun: ClassVar[str] = "emoji"
    is_ours: ClassVar[bool] = False
    group: ClassVar[int] = 1
    vocabulary: ClassVar[int] = 1500  # ours: captions have 22 tokens at most, of 49
    probed: ClassVar[tuple[str, ...]] = ("class", "group")
    distance: ClassVar[str] = "FD-emoji"
    definitions: ClassVar[str] = DEFINITIONS

    @classmethod
    def of(cls, tars: Path, **training: int) -> "EmojiData":
        """The emoji of a folder that `experiments/make_emoji_tars.py` wrote.

        `training` replaces values of the network's. A `ValueError` where that wrote
        none there.
        """
        missing = [name for name in (RECORD, GROUPS) if not (tars / name).is_file()]
        require(
            not missing,
            f"`tars` ({tars}) must be a folder of experiments/make_emoji_tars.py; it "
            f"has no {', '.join(missing)}: name another, or run that again.",
        )
        try:
            record = json.loads((tars / RECORD).read_text())
            version, held_out = record.pop("version"), record.pop("held_out")
            require(
                held_out == HELD_OUT, f"what is held out is {held_out}, not {HELD_OUT}"
            )
            options = from_dict(EmojiConfig, record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"`tars` ({tars}) must have the {RECORD} that "
                f"experiments/make_emoji_tars.py wrote ({error}): run that again, for "
                "another folder."
            ) from error
        names = read_class_names(tars / GROUPS)
        groups = tuple(np.unique(names, return_inverse=True)[1].tolist())
        network = SceneNetworkConfig(
            image_size=options.size,
            widths=(16, 32, 64, 96),
            blocks=(0, 1, 1, 1),
            heads=(("class", len(groups)), ("group", 1 + max(groups))),
        )
        return cls(
            options=options,
            version=version,
            digest=_digest(tars),
            num_train=len(TarSource(tars / "train")),
            groups=groups,
            # Emoji are centered: a small shift is another view of the same class.
            network_training=dataclasses.replace(
                SceneNetworkTraining(
                    network=network, num_epochs=12, batch_size=60, shift=4
                ),
                **training,
            ),
            tars=str(tars),
        )

    @property
    def size(self) -> int:
        """The side of pictures in pixels."""
        return self.options.size

    @property
    def num_labels(self) -> Mapping[Labels, int]:
        """The class, or nothing."""
        return {"class": len(self.groups), "none": 1}

    def check_subset(self, num_images: int) -> None:
        """Raises `ValueError`: each part would be another set of emoji."""
        raise ValueError(
            f"`tokenizer_images` ({num_images}) must be of scenes; emoji come in "
            "parts that batches are of one each: leave it out for all."
        )

    def prepare(self, folder: Path, say: Callable[[str], None]) -> None:
        """Decodes the pictures, and trains the network on those of training."""
        tars = Path(self.tars)
        require(
            _digest(tars) == self.digest,
            f"`tars` ({tars}) must be as when the study was planned; they are not: run "
            "it again.",
        )
        for split in ("train", "validation"):
            if not (folder / f"{split}.npz").exists():
                say(f"Decoding the {split} emoji of {tars} into {folder} ...")
                _write_split(TarSource(tars / split), folder / f"{split}.npz")
        for name in (CLASSES, TEMPLATES):
            write_text(folder / name, (tars / name).read_text())
        if not (folder / NETWORK / NETWORK_RECORD).exists():
            write_text(folder / CONFIG, as_json(self))
            say(f"Training the network of emoji in {folder / NETWORK} ...")
            command = [sys.executable, "-m", "vtp_eqx.study.emoji_data", str(folder)]
            done = subprocess.run(command, env=os.environ | ONE_THREAD)
            require(
                done.returncode == 0,
                f"The network of emoji must be trained before any run; that ended with "
                f"status {done.returncode}, for the reason above: mend it, and run the "
                "command again.",
            )

    def load(self, folder: Path, split: str) -> dict[str, np.ndarray]:
        """All emoji of a split, each part in an order of its own."""
        with np.load(folder / f"{split}.npz") as content:
            arrays = {name: content[name] for name in ("image", "caption", "label")}
        labels = arrays["label"]
        return arrays | {"class": labels, "group": np.array(self.groups)[labels]}

    def parts(self, folder: Path) -> tuple[int, ...]:
        """The emoji of each tar: none has two vendors' versions of a base."""
        with np.load(folder / "train.npz") as content:
            return tuple(content["parts"].tolist())

    def prompts(self, folder: Path, train: Attributes) -> dict[str, list[list[str]]]:
        """The name of each class as captions have the name of an emoji."""
        names, templates = folder / CLASSES, folder / TEMPLATES
        return {
            "class": fill_templates(read_class_names(names), read_templates(templates))
        }

    def network(self, folder: Path) -> FeatureNetwork:
        """The network that was trained on the training emoji."""
        right = recorded_accuracy(folder / NETWORK)
        words = ", ".join(f"{name} {share:.1%}" for name, share in right.items())
        origin = f"trained on the training emoji; right about held-out ones: {words}"
        return scene_features(folder / NETWORK, "emoji-network", origin)

    def network_hash(self, folder: Path) -> str:
        """The hash of its weights, or "" where it is not trained yet."""
        there = (folder / NETWORK / NETWORK_RECORD).exists()
        return scene_network_hash(folder / NETWORK) if there else ""

    @property
    def class_network(self) -> Path | None:
        """None: `network` learned classes and their groups alone."""
        return None

    def sample_labels(
        self, train: Int[np.ndarray, " num"], num_samples: int, of: Labels
    ) -> Int[np.ndarray, " samples"]:
        """Those of the first training emoji, as some classes have few emoji."""
        return np.resize(train, num_samples)

    def accuracy(
        self, reading: Reading, labels: Int[np.ndarray, " num"], of: Labels
    ) -> dict[str, float]:
        """Shares of images with the class asked for, and with its group."""
        if of == "none":
            return {}
        asked = {"class": labels, "group": np.array(self.groups)[labels]}
        right = attribute_agreement(reading, asked)
        return {f"{name} accuracy": right[name] for name in asked}

    def sample_numbers(
        self, samples: SceneSet, real: SceneSet, attributes: Attributes
    ) -> dict[str, float]:
        """None: emoji have no attributes beside their class."""
        return {}


def train_network(folder: Path) -> None:
    """Trains the network, and writes its weights with their held-out accuracy."""
    data = from_dict(EmojiData, json.loads((folder / CONFIG).read_text()))
    train, test = (data.load(folder, split) for split in ("train", "validation"))
    config = data.network_training
    asked, answers = (
        {name: split[name].astype(np.int32) for name, _ in config.network.heads}
        for split in (train, test)
    )
    network = train_scene_network(config, train["image"], asked)
    accuracy = attribute_agreement(read_scenes(network, test["image"]), answers)
    trained_on = dataclasses.asdict(config) | {"digest": data.digest}
    save_scene_network(network, folder / NETWORK, accuracy, trained_on)


def _digest(tars: Path) -> str:
    """Twelve digits that name all tars of a folder by their members."""
    fingerprints = [
        TarSource(tars / split).fingerprint for split in ("train", "validation")
    ]
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()[:12]


def _write_split(source: TarSource, path: Path) -> None:
    """Writes all rows of a split, part by part, and the sizes of the parts.

    Each part in a random order, so that the first rows are like the others: in the tars
    they lie by vendor.
    """
    chance, order, start = np.random.default_rng(0), [], 0
    for size in source.shard_sizes.tolist():
        order += (start + chance.permutation(size)).tolist()
        start += size
    examples = [source[row] for row in order]
    columns = {
        name: np.stack([np.asarray(example[name]) for example in examples])
        for name in ("image", "caption", "label")
    }
    write_npz(path, **columns, parts=source.shard_sizes)


if __name__ == "__main__":
    train_network(Path(sys.argv[1]))
