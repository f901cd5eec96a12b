"""Frozen networks that judge images, behind one door each.

A distance, a score or a coverage is taken in the features of such a network, and is
only comparable with others taken in the same one: it has a name and a hash.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import require
from vtp_eqx.evaluation.card import NetworkName
from vtp_eqx.models.scene_network import load_scene_network, scene_network_hash


Image = Float[Array, "height width 3"]


class Seen(eqx.Module):
    """What a network sees in one image: of these, what it has.

    `spatial` are features that keep places, for sFID; `logits` are those of a
    classifier, for the Inception score.
    """

    features: Float[Array, " width"]
    spatial: Float[Array, " spatial"] | None = None
    logits: Float[Array, " classes"] | None = None


class FeatureNetwork(eqx.Module):
    """`network(image)` of one float image in [0, 1] is what `read(model, image)` sees.

    `name` is one of `card.DISTANCE_NAMES`, `hash` is of the weights, and `image_size`
    is the side of the only images it reads, `None` where it resizes them itself.
    """

    model: Any
    read: Callable[[Any, Any], Seen] = eqx.field(static=True)
    name: NetworkName = eqx.field(static=True)
    hash: str = eqx.field(static=True)
    image_size: int | None = eqx.field(static=True)

    def __call__(self, image: Image) -> Seen:
        return self.read(self.model, image)

    def check_size(self, size: int) -> None:
        """An error where images of that side cannot be judged."""
        require(
            self.image_size in (None, size),
            f"The {self.name} reads images of {self.image_size} x {self.image_size} "
            f"pixels; got {size} x {size}: choose another network or size.",
        )


class PerceptualNetwork(eqx.Module):
    """LPIPS: `network(image, other)` of two float images in [0, 1] is their distance.

    `hash` is of the weights.
    """

    model: Any
    distance: Callable[[Any, Any, Any], Float[Array, ""]] = eqx.field(static=True)
    hash: str = eqx.field(static=True)

    def __call__(self, image: Image, other: Image) -> Float[Array, ""]:
        return self.distance(self.model, image, other)


def see(network: FeatureNetwork, image: Any) -> dict[str, Any]:
    """What a network sees in one image, without what it does not have."""
    seen = network(image)
    answers = {
        "features": seen.features,
        "spatial": seen.spatial,
        "logits": seen.logits,
    }
    return {name: value for name, value in answers.items() if value is not None}


def seen_by(network: FeatureNetwork, size: int) -> list[str]:
    """The names in what `see` returns for images of that side."""
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    return list(eqx.filter_eval_shape(see, network, image))


def scene_features() -> FeatureNetwork:
    """The shipped scene network; distances in its features are `FD-scenes`."""
    network = load_scene_network()
    size = network.config.image_size
    return FeatureNetwork(network, _scene, "scene-network", scene_network_hash(), size)


def _scene(model: Any, image: Any) -> Seen:
    return Seen(model(image).features)
