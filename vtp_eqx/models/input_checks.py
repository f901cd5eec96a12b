"""Checks of what users pass to a tokenizer: images, latents, token ids.

Each check states the law, what came instead, and the way out. Values are looked at only
where they exist: under `jax.jit` an array has a shape and no numbers.
"""

from typing import Any

from jax.core import Tracer
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped
import numpy as np

from vtp_eqx.config import require


_HALF_LEVEL = 0.5 / 255  # ours: what rounds to the same byte is rounding
AnyArray = Shaped[Array, "..."] | Shaped[np.ndarray, "..."]


def check_image(image: AnyArray, patch_size: int) -> Float[Array, "height width 3"]:
    """`image` as a JAX array; a `ValueError` unless it is one image of floats."""
    require(
        image.ndim != 4,
        f"A tokenizer takes one image; got a batch of shape {image.shape}: "
        "map over it with `jax.vmap`.",
    )
    require(
        image.ndim == 3 and image.shape[-1] == 3,
        f"An image has shape [height, width, 3]; got {image.shape}: "
        "put the three colors last.",
    )
    require(
        jnp.issubdtype(image.dtype, jnp.floating),
        f"An image is of floats in [0, 1]; got {image.dtype}: "
        "convert it, and divide by 255 if it is uint8.",
    )
    require(
        image.shape[0] % patch_size == 0 and image.shape[1] % patch_size == 0,
        f"The sides of an image are multiples of the patch size {patch_size}; "
        f"got {image.shape[0]} x {image.shape[1]}: crop or resize it.",
    )
    _require_finite(image, "image")
    _require_unit_range(image)
    return jnp.asarray(image)


def check_measured(is_measured: bool) -> None:
    """A `ValueError` unless the statistics of a tokenizer's latents were measured."""
    require(
        is_measured,
        "`tokenizer` (latent mean 0 and deviation 1 in every channel) must have "
        "measured latent statistics: take them over its training images with "
        "`measure_latents`.",
    )


def check_unrounded(precision: str) -> None:
    """A `ValueError` unless the weights of a tokenizer are as they were trained."""
    require(
        precision == "float32",
        "A tokenizer is written as it was trained, in float32; got one of "
        f"{precision}: write it before its weights are rounded.",
    )


def check_latents(
    latents: AnyArray, width: int
) -> Float[Array, "rows columns channels"]:
    """`latents` as a JAX array; a `ValueError` unless they are those of one image."""
    require(
        latents.ndim != 4,
        f"A tokenizer decodes the latents of one image; got a batch of shape "
        f"{latents.shape}: map over it with `jax.vmap`.",
    )
    require(
        latents.ndim == 3 and latents.shape[-1] == width,
        f"Latents have shape [rows, columns, {width}]; got {latents.shape}: "
        "put the channels last.",
    )
    require(
        jnp.issubdtype(latents.dtype, jnp.floating),
        f"Latents are floats; got {latents.dtype}: convert them.",
    )
    _require_finite(latents, "latents")
    return jnp.asarray(latents)


def check_token_ids(
    ids: AnyArray, context: int, vocabulary: int
) -> Int[Array, " context"]:
    """`ids` as a JAX array; a `ValueError` unless they are one text, padded."""
    require(
        ids.ndim != 2,
        f"A tokenizer takes the ids of one text; got a batch of shape {ids.shape}: "
        "map over it with `jax.vmap`.",
    )
    require(
        ids.ndim == 1 and jnp.issubdtype(ids.dtype, jnp.integer),
        f"A text is one row of integer ids; got {ids.dtype} of shape {ids.shape}: "
        "encode the text first.",
    )
    require(
        ids.shape[0] == context,
        f"A text has exactly {context} ids, padded with 0; got {ids.shape[0]}: "
        f"{'shorten' if ids.shape[0] > context else 'pad'} it.",
    )
    values = _values(ids)
    if values is not None:
        largest, smallest = int(values.max()), int(values.min())
        require(
            smallest >= 0 and largest < vocabulary,
            f"Ids lie in [0, {vocabulary}); got {smallest} to {largest}: "
            "encode the text with the vocabulary of this tokenizer.",
        )
    return jnp.asarray(ids)


def _values(array: Any) -> np.ndarray | None:
    """The numbers of an array, or of the batch that `jax.vmap` maps over; else `None`.

    Without `jax.jit` the tracer of a map holds its batch; others hold no numbers.
    """
    while isinstance(array, Tracer):
        array = getattr(array, "val", None)
    return np.asarray(array) if isinstance(array, Array | np.ndarray) else None


def _require_finite(array: AnyArray, name: str) -> None:
    values = _values(array)
    if values is not None:
        finite = np.isfinite(np.asarray(values, np.float32))
        require(
            bool(finite.all()),
            f"The values of `{name}` are finite; got {int((~finite).sum())} that are "
            "NaN or infinite: look where they were made.",
        )


def _require_unit_range(image: AnyArray) -> None:
    """A `ValueError` that guesses the range of an image whose floats leave [0, 1]."""
    values = _values(image)
    if values is None or not values.size:
        return
    low, high = float(values.min()), float(values.max())
    rounding = max(_HALF_LEVEL, 4 * float(jnp.finfo(values.dtype).eps))
    require(
        -rounding <= low and high <= 1 + rounding,
        f"The values of `image` ({low:.4g} to {high:.4g}) must be in [0, 1]: "
        f"{_range_advice(low, high)}.",
    )


def _range_advice(low: float, high: float) -> str:
    if low >= -0.25 and high <= 1.25:
        return "they leave it by a little, as after a resize, so clip them"
    if low >= 0 and high > 3:  # above what a mean and a deviation make of white
        top = 255 if high <= 256 else 65535
        return f"they seem to be in 0 to {top}, so divide by {top}"
    if low >= -1.1 and high <= 1.1:
        return "they seem to be in [-1, 1], so take `(image + 1) / 2`"
    return "they seem to be normalized by a mean and a deviation, so undo that"
