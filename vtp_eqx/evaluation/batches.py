"""Running a function over images or other rows, batch by batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.mesh import REPLICATED, shard_batch, SPLIT
from vtp_eqx.models.tokenizer import Tokenizer


BATCH = 64
BYTES = "images clipped and rounded to bytes"  # as a card says what numbers are of


def in_batches(
    function: Callable[[Any, Any], Any],
    model: Any,
    rows: np.ndarray,
    *,
    batch_size: int = BATCH,
    mesh: Mesh | None = None,
    one_at_a_time: bool = False,
) -> Any:
    """`function(model, row)` of every row as numpy, compiled once for a batch.

    `rows` of uint8 are given to `function` as floats in [0, 1]; others as they are.
    Compiled code is kept by `function`: a method such as `Tokenizer.encode`, or what a
    module defines, is compiled once for all calls, and a lambda anew in each.

    **Arguments:**

    - `mesh`: batches are split over its devices, to which `model` was copied
        (`mesh.replicate`); where `None`, all is computed where `model` is.
    - `one_at_a_time`: computes rows one after another, so that a row's result does not
        depend on the batch size to the last bit. Slower, and takes a `mesh`.
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # Filled up with repeats: one size is compiled, and devices share it evenly.
        filled = batch[np.arange(batch_size) % len(batch)]
        if mesh is not None:
            filled = shard_batch(filled, mesh)
        # Without this, accelerators multiply float32 with a few bits of it.
        with jax.default_matmul_precision("highest"):
            if one_at_a_time:
                assert mesh is not None
                part = _apply_one_at_a_time(function, model, filled, mesh)
            else:
                part = _apply(function, model, filled)
        parts.append(jax.device_get(part))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(rows)], *parts)


def encode_images(
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    *,
    batch_size: int = BATCH,
) -> Float[np.ndarray, "num rows columns channels"]:
    """The raw latents of images."""
    return in_batches(Tokenizer.encode, tokenizer, images, batch_size=batch_size)


def reconstruct_images(
    tokenizer: Tokenizer,
    images: UInt8[np.ndarray, "num height width 3"],
    *,
    batch_size: int = BATCH,
) -> UInt8[np.ndarray, "num height width 3"]:
    """Reconstructions of images, clipped and rounded to bytes."""
    return as_bytes(in_batches(reconstruct, tokenizer, images, batch_size=batch_size))


def reconstruct(
    tokenizer: Tokenizer, image: Float[Array, "height width 3"]
) -> Float[Array, "height width 3"]:
    """The reconstruction of one image, rounded to bytes: whole levels over 255."""
    return byte_levels(tokenizer.decode(tokenizer.encode(image))) / 255


def as_bytes(
    images: Float[Array, "*axes"] | Float[np.ndarray, "*axes"],
) -> UInt8[np.ndarray, "*axes"]:
    """Images of `[0, 1]` as they are saved; a `ValueError` where a value is NaN."""
    levels = byte_levels(np.asarray(images, dtype=np.float32))
    num_bad = int(np.isnan(levels).sum())
    require(
        num_bad == 0,
        f"`images` ({num_bad} values of NaN) must be numbers: look at their latents.",
    )
    return levels.astype(np.uint8)


def byte_levels(images: Any) -> Any:
    """Floats of [0, 1] clipped and rounded to the levels 0.0 ... 255.0 of a byte.

    The one place where that is done, for NumPy and JAX arrays: everything is measured
    of what would be saved. Halves go to the even level, and NaN stays NaN.
    """
    xp = images.__array_namespace__()
    return xp.round(xp.clip(images, 0, 1) * 255)


@eqx.filter_jit
def _apply(function: Callable[[Any, Any], Any], model: Any, rows: Any) -> Any:
    return jax.vmap(lambda row: function(model, row))(_floats(rows))


@eqx.filter_jit
def _apply_one_at_a_time(
    function: Callable[[Any, Any], Any], model: Any, rows: Any, mesh: Mesh
) -> Any:
    arrays, static = eqx.partition(model, eqx.is_array)

    def local(arrays: Any, rows: Any) -> Any:
        model = eqx.combine(arrays, static)
        return lax.map(lambda row: function(model, _floats(row)), rows)

    return jax.shard_map(
        local, mesh=mesh, in_specs=(REPLICATED, SPLIT), out_specs=SPLIT
    )(arrays, rows)


def _floats(rows: Any) -> Any:
    return rows.astype(jnp.float32) / 255 if rows.dtype == np.uint8 else rows
