"""Scores of generated scenes: FD-scenes, and whether they show what was asked for.

Samples and reference images are bytes, as files would hold them, so that neither has
values that no image has.

Real scenes are not at distance 0 from real scenes: of difficulty 0.7, with the shipped
network, `FD-scenes` between training and validation scenes is 0.94 for 2400 of each and
0.51 for 4800 (0.99 and 0.60 where validation scenes come in groups of four, which share
most attributes). Quote that floor beside a distance.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Literal

from jaxtyping import Float, Float64, Int, UInt8
import numpy as np
from scipy.special import softmax

from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.mind import Projections
from vtp_eqx.frozen.scene_network import Reading, SceneNetwork
from vtp_eqx.scenes.captions import COLORS, NAMES


BATCH = 200  # images read at a time
RAKING_ROUNDS = 20  # ours: shares of hundreds of samples are right to 1e-6 then


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """A set of scenes as the scene network reads them, and summaries for distances.

    `labels` are what a generator is told of each: see `conditional_accuracy`.
    """

    reading: Reading
    labels: Int[np.ndarray, " count"]

    @classmethod
    def of(
        cls,
        network: SceneNetwork,
        features: Float[np.ndarray, "count width"],
        labels: Int[np.ndarray, " count"],
    ) -> "SceneSet":
        """The set of the scenes that have these features of `network`."""
        return cls(in_batches(SceneNetwork.read_features, network, features), labels)

    def __getitem__(self, rows: slice) -> "SceneSet":
        """The set of some of the scenes."""
        logits = {name: part[rows] for name, part in self.reading.logits.items()}
        return SceneSet(Reading(self.features[rows], logits), self.labels[rows])

    @property
    def features(self) -> Float[np.ndarray, "count width"]:
        """The features of each scene."""
        return np.asarray(self.reading.features)

    @functools.cached_property
    def moments(self) -> Moments:
        """For a Frechet distance."""
        return Moments.of(self.features)

    @functools.cached_property
    def projections(self) -> Projections:
        """For MIND."""
        return Projections.of(self.features)


def read_scenes(
    network: SceneNetwork, images: UInt8[np.ndarray, "count height width 3"]
) -> Reading:
    """The scene network's outputs for each image, as numpy arrays."""
    return in_batches(SceneNetwork.__call__, network, images, batch_size=BATCH)


def predictions(reading: Reading) -> dict[str, Int[np.ndarray, " count"]]:
    """The most probable value of each attribute, for each image."""
    return {
        name: np.argmax(np.asarray(logits), axis=-1)
        for name, logits in reading.logits.items()
    }


def conditional_accuracy(
    reading: Reading,
    labels: Int[np.ndarray, " count"],
    condition: Literal["class", "color", "none"] = "class",
) -> dict[str, float]:
    """The share of images that show the class or color their generator was given.

    Of a `condition` "class", whose labels count colors fastest (`scenes.render`): the
    shape, the color, and both. Of "color": the color. Of "none": nothing.
    """
    if condition == "none":
        return {}
    seen = predictions(reading)
    color = seen["color"] == labels % len(COLORS)
    if condition == "color":
        return {"color accuracy": float(color.mean())}
    shape = seen["shape"] == labels // len(COLORS)
    return {
        "shape accuracy": float(shape.mean()),
        "color accuracy": float(color.mean()),
        "class accuracy": float((shape & color).mean()),
    }


def recognizable_share(reading: Reading, name: str) -> float:
    """The share of images of whose `name`, "shape" say, the network is 90% sure."""
    probabilities = softmax(np.asarray(reading.logits[name], np.float64), axis=-1)
    return float(np.mean(probabilities.max(axis=-1) >= 0.9))


def attribute_agreement(
    reading: Reading, attributes: Mapping[str, Int[np.ndarray, " count"]]
) -> dict[str, float]:
    """The share of images that show the value asked for, by attribute."""
    seen = predictions(reading)
    return {
        name: float(np.mean(values == attributes[name]))
        for name, values in seen.items()
    }


def attribute_total_variation(
    reading: Reading, attributes: Mapping[str, Int[np.ndarray, " others"]]
) -> dict[str, float]:
    """Total variation between attribute shares of two sets of images, by attribute.

    The total variation: 0 where every value is as frequent, 1 where none is in both.
    A generator that leaves out a texture drifts by its share.
    """
    return {
        name: float(
            np.abs(shares(name, seen) - shares(name, attributes[name])).sum() / 2
        )
        for name, seen in predictions(reading).items()
    }


def shares(
    name: str,
    values: Int[np.ndarray, " count"],
    weights: Float64[np.ndarray, " count"] | None = None,
) -> Float64[np.ndarray, " values"]:
    """The share of images with each value of the attribute `name`.

    With `weights`, whose mean is 1, an image counts as so many.
    """
    return np.bincount(values, weights, minlength=len(NAMES[name])) / len(values)


def attribute_weights(
    reading: Reading, reference: Reading
) -> Float64[np.ndarray, " count"]:
    """Weights of mean 1 with which attributes are as frequent as in `reference`.

    Every attribute's shares by themselves, not those of combinations: each in turn is
    set right until all are (raking: Deming & Stephan 1940). Shares of values that one
    of both sets lacks stay as they are. What a distance of the weighted set is below
    that of the plain one, frequencies account for. Few rows with much weight are
    fewer in effect, which raises a distance.
    """
    seen, wanted = predictions(reading), predictions(reference)
    weights = np.ones(len(reading.features))
    for _ in range(RAKING_ROUNDS):
        for name, values in seen.items():
            goal, now = shares(name, wanted[name]), shares(name, values, weights)
            both = (goal > 0) & (now > 0)
            factors = np.ones(len(now))
            kept = now[both].sum() / goal[both].sum() if both.any() else 1.0
            factors[both] = goal[both] / now[both] * kept
            weights = weights * factors[values]
    return weights
