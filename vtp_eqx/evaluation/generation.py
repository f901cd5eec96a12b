"""How good samples are: their distance to real scenes, and whether they obey.

Samples and reference images enter as bytes, as files would hold them, so that neither
side is judged on values that no image has.

Real scenes are not at distance 0 from real scenes: with the shipped network `FD-scenes`
between training and validation scenes is 1.3 for 2000 of each, 0.85 for 5000 (0.62
against 9600). The four scenes of a group share most attributes, so a set of whole
groups varies less than its count says. Quote that floor beside a distance.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
import numpy as np

from vtp_eqx.data.scene_captions import COLORS
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.models.scene_network import Reading, SceneNetwork


def as_bytes(
    images: Float[Array, "*axes"] | Float[np.ndarray, "*axes"],
) -> UInt8[np.ndarray, "*axes"]:
    """Images of `[0, 1]` clipped and rounded to 0 ... 255; NaN is an error."""
    values = np.asarray(images, dtype=np.float32)
    if np.isnan(values).any():
        raise ValueError(
            "Images must not hold NaN; got some: look at the samples' latents."
        )
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def read_scenes(
    network: SceneNetwork,
    images: UInt8[np.ndarray, "count height width 3"],
    *,
    batch_size: int = 200,
) -> Reading:
    """What `network` sees in each image, as numpy arrays with a leading `count`."""
    if len(images) == 0:
        raise ValueError("Scenes are read from at least one image; got none.")
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # Filled up with repeats, so that the last batch is not compiled for itself.
        rows = np.arange(batch_size) % len(batch)
        parts.append(jax.device_get(read_batch(network, jnp.asarray(batch[rows]))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(images)], *parts)


@eqx.filter_jit
def read_batch(
    network: SceneNetwork, images: UInt8[Array, "batch height width 3"]
) -> Reading:
    """What `network` sees in each image of one batch."""
    return jax.vmap(network)(jnp.asarray(images, jnp.float32) / 255)


def predictions(reading: Reading) -> dict[str, Int[np.ndarray, " count"]]:
    """The most probable value of each attribute, for each image."""
    return {
        name: np.argmax(np.asarray(logits), axis=-1)
        for name, logits in reading.logits.items()
    }


def class_agreement(
    reading: Reading, labels: Int[np.ndarray, " count"]
) -> dict[str, float]:
    """Shares of images that show the shape, the color, and both, of their label.

    A label counts colors fastest, as `data.scenes` gives it.
    """
    seen = predictions(reading)
    shape = seen["shape"] == labels // len(COLORS)
    color = seen["color"] == labels % len(COLORS)
    return {
        "shape agreement": float(shape.mean()),
        "color agreement": float(color.mean()),
        "class agreement": float((shape & color).mean()),
    }


def attribute_agreement(
    reading: Reading, attributes: Mapping[str, Int[np.ndarray, " count"]]
) -> dict[str, float]:
    """The share of images that show the value asked for, by attribute."""
    seen = predictions(reading)
    return {
        name: float(np.mean(values == attributes[name]))
        for name, values in seen.items()
    }


def scene_moments(
    network: SceneNetwork, images: UInt8[np.ndarray, "count height width 3"]
) -> Moments:
    """Moments of the network's features over all images."""
    return Moments.of(np.asarray(read_scenes(network, images).features))
