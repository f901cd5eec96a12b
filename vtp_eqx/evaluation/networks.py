"""Frozen networks in which images are compared: Inception, DINOv2, LPIPS, scenes.

A distance, a score or a coverage is taken in the features of such a network, and is
only comparable with others taken in the same one: it has a name and a hash.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
from jaxtyping import Array, Float

from vtp_eqx.config import require
from vtp_eqx.frozen.dinov2 import BY_FILE, DISTANCE_SIDE, load_dinov2
from vtp_eqx.frozen.inception import INCEPTION, load_inception
from vtp_eqx.frozen.lpips import load_perceptual
from vtp_eqx.frozen.scene_network import (
    load_scene_network,
    scene_network_hash,
    SHIPPED_ORIGIN,
)
from vtp_eqx.frozen.weights import network_hash


NetworkName = Literal["scene-network", "inception-v3", "dinov2"]  # of commands
FeatureName = NetworkName | Literal["emoji-network"]  # which studies train themselves
# What a Frechet distance between features of a network is called.
DISTANCE_NAMES: dict[str, str] = {
    "scene-network": "FD-scenes",
    "inception-v3": "FID",
    "dinov2": "FD-DINOv2",
    "emoji-network": "FD-emoji",
}
Image = Float[Array, "height width 3"]


def of_reconstructions(distance: str) -> str:
    """What a distance is called when it is that of reconstructions: rFID of FID."""
    return f"r{distance}"


class NetworkOutputs(eqx.Module):
    """The outputs of a feature network for one image; `None` for those it lacks.

    `spatial` are features that keep places, for sFID; `logits` are those of a
    classifier, for the Inception score.
    """

    features: Float[Array, " width"]
    spatial: Float[Array, " spatial"] | None = None
    logits: Float[Array, " classes"] | None = None


class FeatureNetwork(eqx.Module):
    """`network(image)` of one float image in [0, 1] is what `read(model, image)` sees.

    `hash` is of the weights, and `image_size` is the side of the only images it reads,
    `None` where it resizes them itself. `origin` tells whose the weights are, and how
    images are prepared for them.
    """

    model: Any
    read: Callable[[Any, Any], NetworkOutputs] = eqx.field(static=True)
    name: FeatureName = eqx.field(static=True)
    hash: str = eqx.field(static=True)
    image_size: int | None = eqx.field(static=True)
    origin: str = eqx.field(static=True, default="")

    def __call__(self, image: Image) -> NetworkOutputs:
        return self.read(self.model, image)

    def check_size(self, size: int) -> None:
        """An error where images of that side cannot be read."""
        require(
            self.image_size in (None, size),
            f"The {self.name} reads images of {self.image_size} x {self.image_size} "
            f"pixels; got {size} x {size}: choose another network or size.",
        )


class PerceptualNetwork(eqx.Module):
    """LPIPS: `network(image, other)` of two float images in [0, 1] is their distance.

    `hash` is of the weights, and `origin` tells whose they are.
    """

    model: Callable[[Any, Any], Float[Array, ""]]
    hash: str = eqx.field(static=True)
    origin: str = eqx.field(static=True, default="")

    def __call__(self, image: Image, other: Image) -> Float[Array, ""]:
        return self.model(image, other)


def network_outputs(network: FeatureNetwork, image: Any) -> dict[str, Any]:
    """The outputs of a network for one image, without those it lacks."""
    outputs = vars(network(image))
    return {name: value for name, value in outputs.items() if value is not None}


def scene_features(
    folder: Path | None = None,
    name: FeatureName = "scene-network",
    origin: str = SHIPPED_ORIGIN,
) -> FeatureNetwork:
    """The scene network of a folder, by default the one shipped for 32 pixels.

    Distances in its features are `FD-scenes`, or what those of `name` are called.
    """
    network = load_scene_network(folder)
    size, digest = network.config.image_size, scene_network_hash(folder)
    return FeatureNetwork(network, _scene, name, digest, size, origin)


def feature_network(name: NetworkName, weights: Path | None) -> FeatureNetwork:
    """A feature network, with the published file of its weights; the first has its own.

    DINOv2 is recognized by the name of its file, such as `dinov2_vitl14_pretrain.pth`.
    An error where the file is missing or is another than the published one.
    """
    if name == "scene-network":
        require(
            weights is None,
            f"The scene network is shipped with its weights; got {weights}: leave them "
            "out, or choose another network.",
        )
        return scene_features()
    if name == "inception-v3":
        model = load_inception(weights or INCEPTION.name)
        origin = f"{model.origin}, preprocessing of {model.preprocessing}"
        return FeatureNetwork(
            model, _inception, name, network_hash(model), None, origin
        )
    file = "" if weights is None else weights.name
    require(
        file in BY_FILE,
        f"DINOv2 is read from a file of its published name; got {file!r}: use one of "
        f"{', '.join(BY_FILE)}.",
    )
    assert weights is not None
    model = load_dinov2(weights, BY_FILE[file])
    origin = f"{model.origin}, antialiased bicubic to {DISTANCE_SIDE} pixels"
    return FeatureNetwork(model, _dinov2, name, network_hash(model), None, origin)


def lpips(vgg: Path, channels: Path) -> PerceptualNetwork:
    """LPIPS from the published files of VGG16 and of its channel weights."""
    model = load_perceptual(vgg, channels)
    return PerceptualNetwork(model, network_hash(model), model.origin)


def _scene(model: Any, image: Any) -> NetworkOutputs:
    return NetworkOutputs(model(image).features)


def _inception(model: Any, image: Any) -> NetworkOutputs:
    reading = model(image)
    return NetworkOutputs(reading.features, reading.spatial, reading.logits)


def _dinov2(model: Any, image: Any) -> NetworkOutputs:
    return NetworkOutputs(model.distance_features(image))
