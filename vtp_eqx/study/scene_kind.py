"""Painted scenes as the data of a study."""

from collections.abc import Callable, Mapping
import dataclasses
import logging
from pathlib import Path
from typing import ClassVar, Literal

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.sources import load_arrays, TfdsSource
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.networks import FeatureNetwork, scene_features
from vtp_eqx.evaluation.scene_metrics import (
    attribute_total_variation,
    attribute_weights,
    conditional_accuracy,
    recognizable_share,
    SceneSet,
)
from vtp_eqx.frozen.scene_network import (
    CLASS_SIZES,
    Reading,
    scene_network_hash,
    shipped,
)
from vtp_eqx.scenes.captions import prompts
from vtp_eqx.scenes.render import COLORS, GROUP, NAMES, NUM_CLASSES, SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes


# What a generator is conditioned on: the class, an attribute, or nothing.
Labels = Literal["class", "color", "none"]
Attributes = Mapping[str, Int[np.ndarray, " num"]]
PROMPTS = 64  # captions averaged for one class embedding; CLIP has 80
DEFINITIONS = """\
- **FD-scenes**: Fréchet distance between samples and held-out scenes in the features
  of the shipped scene network; it is not FID. Its floor is that of as many training
  scenes.
- **PSNR** of reconstructions of held-out scenes, clipped and rounded to bytes.
- **class right, color right**: the share of samples in which the scene network sees
  what the generator was asked for (chance 4%, 17%).
- **shape read off latents**: held-out accuracy of a linear classifier on the mean
  latent of an image (chance 25%)."""


@dataclasses.dataclass(frozen=True)
class SceneKind:
    """The scenes of a config, which the shipped scene network reads.

    What a study needs of its data has these names. `folder` is where it keeps them.
    """

    config: SceneConfig

    noun: ClassVar[str] = "scenes"  # what reports call the images
    is_ours: ClassVar[bool] = True  # reports show them: others' stay where they are
    # Consecutive training images that resemble each other and share a batch.
    group: ClassVar[int] = GROUP
    # Tokens of captions at most; ours: every word of the captions is one.
    vocabulary: ClassVar[int] = 400
    # What a generator may be conditioned on, and how many values that has.
    num_labels: ClassVar[Mapping[Labels, int]] = {
        "class": NUM_CLASSES,
        "color": len(COLORS),
        "none": 1,
    }
    probed: ClassVar[tuple[str, ...]] = ("shape", "color", "position")  # attributes
    # What a Fréchet distance in the features of `network` is called.
    distance: ClassVar[str] = "FD-scenes"
    definitions: ClassVar[str] = DEFINITIONS  # of the columns of a report, in Markdown

    @property
    def size(self) -> int:
        """The side of scenes in pixels."""
        return self.config.size

    def check_subset(self, num_images: int) -> None:
        """Raises `ValueError` where the first scenes are no whole sets of classes."""
        require(
            0 < num_images < self.config.num_train and num_images % NUM_CLASSES == 0,
            f"`tokenizer_images` ({num_images}) must be a multiple of {NUM_CLASSES} "
            f"below `data.num_train` ({self.config.num_train}), so that every class is "
            "equally frequent: change it, or leave it out for all.",
        )

    def prepare(self, folder: Path, say: Callable[[str], None]) -> None:
        """Makes what is missing: renders the scenes. Their network is there."""
        # What TensorFlow Datasets has to say there is not for the reader of a study.
        logging.getLogger("absl").setLevel(logging.ERROR)
        count = self.config.num_train + self.config.num_validation
        say(f"Rendering {count:,} scenes of {self.size} pixels into {folder} ...")
        prepare_scenes(self.config, folder)

    def load(self, folder: Path, split: str) -> dict[str, np.ndarray]:
        """`image`, `caption`, `label` and attributes of all scenes of a split."""
        arrays = load_arrays(TfdsSource(prepare_scenes(self.config, folder), split))
        return {name: arrays[name] for name in ("image", "caption", "label", *NAMES)}

    def parts(self, folder: Path) -> tuple[int, ...]:
        """See `Dataset.parts`. None: any two scenes may meet in a batch."""
        return ()

    def prompts(self, folder: Path, train: Attributes) -> dict[str, list[list[str]]]:
        """Captions that differ in one attribute, and have values that scenes have.

        See `Dataset.prompts`; `train` are the attributes of training images.
        """
        values = {name: np.unique(train[name]) for name in NAMES}
        return {
            name: prompts(name, PROMPTS, values | {name: np.arange(len(NAMES[name]))})
            for name in self.probed
        }

    def network(self, folder: Path) -> FeatureNetwork:
        """The shipped scene network for scenes of this size."""
        return scene_features(shipped(self.size))

    def network_hash(self, folder: Path) -> str:
        """The hash of its weights."""
        return scene_network_hash(shipped(self.size))

    @property
    def class_network(self) -> Path | None:
        """The network of FD-classes, which learned those alone; of some sizes."""
        return shipped(self.size, "class") if self.size in CLASS_SIZES else None

    def sample_labels(
        self, train: Int[np.ndarray, " num"], num_samples: int, of: Labels
    ) -> Int[np.ndarray, " samples"]:
        """What samples are asked for: each class as often, as in the scenes."""
        return np.arange(num_samples) % self.num_labels[of]

    def accuracy(
        self, reading: Reading, labels: Int[np.ndarray, " num"], of: Labels
    ) -> dict[str, float]:
        """Shares of images with the class and color asked for."""
        return conditional_accuracy(reading, labels, of)

    def sample_numbers(
        self, samples: SceneSet, real: SceneSet, attributes: Attributes
    ) -> dict[str, float]:
        """What frequencies of attributes account for, and how sure the network is.

        "FD reweighted" is the distance of samples whose attributes count as if they
        were as frequent as real ones, which are `attributes`.
        """
        weights = attribute_weights(samples.reading, real.reading)
        drift = attribute_total_variation(samples.reading, attributes)
        weighted = Moments.of(samples.features, weights)
        return {
            "FD reweighted": frechet_distance(weighted, real.moments),
            "shape recognizable": recognizable_share(samples.reading, "shape"),
            "total variation texture": drift["texture"],
            "total variation position": drift["position"],
        }
