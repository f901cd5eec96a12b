"""A small convolutional network that reads the attributes of a rendered scene.

Its features stand in for Inception's where the images are scenes, and its predictions
say whether a sample shows what was asked for. It is no part of any tokenizer: it was
trained on the attributes alone, by `experiments/train_scene_network.py`, and ships with
its weights and their hash, for scenes of 32 and of 64 pixels. A second network was
trained on the class alone, as Inception was, and has no need to see the rest; it ships
for scenes of 32 pixels. Of other heads, the same network reads other labeled images.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray
import numpy as np
import safetensors.numpy

from vtp_eqx.config import from_dict, require
from vtp_eqx.files import atomic_path
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.nn.convolution import Convolution
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm
from vtp_eqx.scenes.captions import NAMES
from vtp_eqx.scenes.render import NUM_CLASSES
from vtp_eqx.tensor_files import check_arrays


SHIPPED = Path(__file__).parent.parent / "weights"
SHIPPED_SIZES = (32, 64)  # sides of scenes, in pixels
CLASS_SIZES = (32,)  # the same, of networks that were trained on the class alone
SHIPPED_ORIGIN = "shipped with vtp_eqx"
WEIGHTS = "scene_network.safetensors"
RECORD = "scene_network.json"
# What a network predicts, and the number of values of each.
Target = Literal["attributes", "class"]
HEADS: dict[Target, tuple[tuple[str, int], ...]] = {
    "attributes": tuple((name, len(values)) for name, values in NAMES.items()),
    "class": (
        ("class", NUM_CLASSES),
    ),  # shape and color: what generators are asked for
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneNetworkConfig:
    """Shape of a scene network. All values are ours."""

    image_size: int = 32  # side of the scenes it reads, in pixels
    widths: tuple[int, ...] = (32, 64, 96)  # a stage each, at 1/2, 1/4, ... of the side
    blocks: tuple[int, ...] = (1, 2, 1)  # residual blocks a stage
    squeezed_width: int = 64  # channels before the grid is flattened
    feature_width: int = 128
    # What it reads, and how many values that has.
    heads: tuple[tuple[str, int], ...] = HEADS["attributes"]

    def __post_init__(self):
        require(
            len(self.widths) == len(self.blocks) > 0,
            "Each stage has a width and a number of blocks; got "
            f"{len(self.widths)} widths and {len(self.blocks)} numbers: pair them.",
        )
        require(
            self.image_size % 2 ** len(self.widths) == 0,
            "Every stage halves the side, so `image_size` must be a multiple of "
            f"{2 ** len(self.widths)}; got {self.image_size}: change either.",
        )

    @property
    def grid_size(self) -> int:
        """Side of the grid that the last stage leaves."""
        return self.image_size // 2 ** len(self.widths)


class Reading(eqx.Module):
    """What a scene network sees: features, and logits of the values of each target."""

    features: Float[Array | np.ndarray, "*axes features"]
    logits: dict[str, Float[Array | np.ndarray, "..."]]


class ResidualBlock(eqx.Module):
    """`x + mix(relu(spread(norm(x))))`, with a 3 x 3 and then a 1 x 1 convolution."""

    norm: LayerNorm
    spread: Convolution
    mix: Convolution

    def __init__(self, width: int, *, key: PRNGKeyArray):
        spread_key, mix_key = jr.split(key)
        self.norm = LayerNorm(width)
        self.spread = Convolution.drawn(
            width, width, size=3, gain=2**0.5, key=spread_key
        )
        self.mix = Convolution.drawn(width, width, size=1, gain=0.5, key=mix_key)

    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        return x + self.mix(jax.nn.relu(self.spread(self.norm(x))))


class Stage(eqx.Module):
    """Halves the sides, then refines."""

    halve: Convolution
    blocks: list[ResidualBlock]

    def __init__(
        self, in_width: int, width: int, num_blocks: int, *, key: PRNGKeyArray
    ):
        halve_key, *keys = jr.split(key, 1 + num_blocks)
        self.halve = Convolution.drawn(in_width, width, size=2, stride=2, key=halve_key)
        self.blocks = [ResidualBlock(width, key=key) for key in keys]

    def __call__(
        self, x: Float[Array, "height width in"]
    ) -> Float[Array, "down across out"]:
        x = self.halve(x)
        for block in self.blocks:
            x = block(x)
        return x


class SceneNetwork(eqx.Module):
    """Reads one scene of one size: `network(image) -> Reading`.

    Keeps the grid until the end, because a scene's position is one of its attributes.
    """

    stages: list[Stage]
    norm: LayerNorm
    squeeze: Convolution
    to_features: Linear
    heads: dict[str, Linear]
    config: SceneNetworkConfig = eqx.field(static=True)

    def __init__(self, config: SceneNetworkConfig, *, key: PRNGKeyArray):
        stage_key, squeeze_key, feature_key, head_key = jr.split(key, 4)
        widths = itertools.pairwise((3, *config.widths))
        keys = jr.split(stage_key, len(config.widths))
        self.stages = [
            Stage(*ends, num_blocks, key=key)
            for ends, num_blocks, key in zip(widths, config.blocks, keys, strict=True)
        ]
        self.norm = LayerNorm(config.widths[-1])
        self.squeeze = Convolution.drawn(
            config.widths[-1], config.squeezed_width, size=1, key=squeeze_key
        )
        flat = config.squeezed_width * config.grid_size**2
        self.to_features = Linear(
            flat, config.feature_width, std=(2 / flat) ** 0.5, key=feature_key
        )
        keys = jr.split(head_key, len(config.heads))
        self.heads = {
            name: Linear(config.feature_width, num_values, key=key)
            for (name, num_values), key in zip(config.heads, keys, strict=True)
        }
        self.config = config

    def __call__(self, image: Num[Array, "..."]) -> Reading:
        """Reads one image of floats in [0, 1]; features are not negative."""
        side = self.config.image_size
        require(
            image.shape == (side, side, 3),
            f"This scene network reads images of shape {(side, side, 3)}; got "
            f"{image.shape}: resize them, or train one for your size with "
            "experiments/train_scene_network.py.",
        )
        require(
            jnp.issubdtype(image.dtype, jnp.floating),
            f"A scene network reads floats in [0, 1]; got {image.dtype}: "
            "divide by 255.",
        )
        x = 2 * image - 1
        for stage in self.stages:
            x = stage(x)
        x = jax.nn.relu(self.squeeze(self.norm(x)))
        return self.read_features(jax.nn.relu(self.to_features(x.reshape(-1))))

    def read_features(self, features: Float[Array, " features"]) -> Reading:
        """The reading of an image that has these features."""
        return Reading(
            features, {name: head(features) for name, head in self.heads.items()}
        )


def scale_features(network: SceneNetwork, scale: float | np.float32) -> SceneNetwork:
    """`network` with features that are `scale` times as large.

    The heads undo it, so predictions stay as they were: rectified features scale with
    their weights.
    """
    to_features = jax.tree.map(lambda leaf: leaf * scale, network.to_features)
    scaled = eqx.tree_at(lambda network: network.to_features, network, to_features)
    return eqx.tree_at(
        lambda network: [head.weight for head in network.heads.values()],
        scaled,
        [head.weight / scale for head in network.heads.values()],
    )


def shipped(image_size: int = 32, target: Target = "attributes") -> Path:
    """The folder of the shipped network for scenes of this side, in pixels.

    `target` is what it was trained to predict.
    """
    name, sizes = {
        "attributes": ("scenes", SHIPPED_SIZES),
        "class": ("classes", CLASS_SIZES),
    }[target]
    require(
        image_size in sizes,
        f"`image_size` ({image_size}) has no shipped scene network; there are some for "
        f"{sizes}: train one with experiments/train_scene_network.py.",
    )
    return SHIPPED / f"{name}_{image_size}"


def save_scene_network(
    network: SceneNetwork,
    folder: Path,
    accuracy: Mapping[str, float],
    trained_on: Mapping[str, object],
) -> str:
    """Writes weights and a record of them to `folder`; returns the weights' sha256.

    The record tells hash, shape, the accuracy of each attribute, and what it was
    `trained_on`.
    """
    arrays = named_arrays(eqx.filter(network, eqx.is_array))
    content = safetensors.numpy.save(
        {name: np.asarray(array) for name, array in arrays.items()}
    )
    digest = hashlib.sha256(content).hexdigest()
    record = {
        "sha256": digest,
        "config": dataclasses.asdict(network.config),
        "accuracy": dict(accuracy),
        "trained_on": dict(trained_on),
    }
    text = json.dumps(record, indent=1) + "\n"
    for name, data in ((WEIGHTS, content), (RECORD, text.encode())):
        with atomic_path(folder / name) as unfinished:
            unfinished.write_bytes(data)
    return digest


def load_scene_network(folder: Path | None = None) -> SceneNetwork:
    """The scene network in `folder`, by default the shipped one for 32 pixels.

    An error where a file is missing, or where the weights are not those recorded.
    """
    folder = folder or shipped()
    record = _record(folder)
    weights = folder / WEIGHTS
    require(weights.exists(), f"The scene network's weights are missing: {weights}.")
    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    require(
        digest == record["sha256"],
        f"The weights in {weights} must have the sha256 of their record, "
        f"{record['sha256']}; got {digest} from {len(content)} bytes: copy the file "
        "again, it is truncated or another one.",
    )
    config = from_dict(SceneNetworkConfig, record["config"])
    network = eqx.filter_eval_shape(SceneNetwork, config, key=jr.key(0))
    arrays = safetensors.numpy.load(content)
    check_arrays(arrays, named_arrays(network))
    return with_arrays(network, arrays)


def scene_network_hash(folder: Path | None = None) -> str:
    """The sha256 of the weights in `folder`, as their record tells it."""
    return _record(folder or shipped())["sha256"]


def recorded_accuracy(folder: Path) -> dict[str, float]:
    """The held-out accuracy of each attribute, as the record in `folder` tells it."""
    return _record(folder)["accuracy"]


def _record(folder: Path) -> dict:
    path = folder / RECORD
    require(
        path.exists(),
        f"A scene network needs the record of its weights; got no {path}: install the "
        "package again, or run experiments/train_scene_network.py.",
    )
    return json.loads(path.read_text())
