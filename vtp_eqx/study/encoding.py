"""A model applied to a whole data set, a batch at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8
import numpy as np

from vtp_eqx.models.tokenizer import Tokenizer


BATCH = 256


def encode_all(
    tokenizer: Tokenizer, images: UInt8[np.ndarray, "num height width 3"]
) -> Float[np.ndarray, "num rows columns channels"]:
    """The raw latents of all images, a batch at a time."""
    return in_batches(_encode, tokenizer, images)


def in_batches(
    function: Callable[[Any, Any], Any], model: Any, images: np.ndarray
) -> Any:
    """`function(model, image)` of every image as numpy, compiled once for a batch.

    `images` of uint8 are given to `function` as floats in [0, 1]; others as they are.
    Compiled code is kept by `function`, so that one defined in a module, unlike a
    lambda made for the call, is compiled once for all calls.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        # Filled up with repeats, so that the last batch is not compiled for itself.
        rows = np.arange(BATCH) % len(batch)
        found = jax.device_get(_apply(function, model, batch[rows]))
        count = len(batch)
        parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@eqx.filter_jit
def _apply(function: Callable[[Any, Any], Any], model: Any, rows: Any) -> Any:
    if rows.dtype == np.uint8:
        rows = rows.astype(jnp.float32) / 255
    return jax.vmap(lambda row: function(model, row))(rows)


def _encode(tokenizer: Tokenizer, image: Any) -> Any:
    return tokenizer.encode(image)
