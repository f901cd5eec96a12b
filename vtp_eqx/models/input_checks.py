"""What the public doors of a tokenizer say to an input they cannot take.

Each check states the law, what came instead, and the way out. Values are looked at only
where they exist: under `jax.jit` or `jax.vmap` an array has a shape and no numbers.
"""

from jax.core import Tracer
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped
import numpy as np

from vtp_eqx.config import require


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
    return jnp.asarray(image)


def check_measured(is_measured: bool) -> None:
    """A `ValueError` unless the statistics of a tokenizer's latents were measured."""
    require(
        is_measured,
        "`tokenizer` (latent mean 0 and deviation 1 in every channel) must have "
        "measured latent statistics: take them over its training images with "
        "`measure_latents`.",
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
    if _has_values(ids):
        largest, smallest = int(np.max(ids)), int(np.min(ids))
        require(
            smallest >= 0 and largest < vocabulary,
            f"Ids lie in [0, {vocabulary}); got {smallest} to {largest}: "
            "encode the text with the vocabulary of this tokenizer.",
        )
    return jnp.asarray(ids)


def _has_values(array: AnyArray) -> bool:
    return not isinstance(array, Tracer)


def _require_finite(array: AnyArray, name: str) -> None:
    if _has_values(array):
        finite = np.isfinite(np.asarray(array, np.float32))
        require(
            bool(finite.all()),
            f"The values of `{name}` are finite; got {int((~finite).sum())} that are "
            "NaN or infinite: look where they were made.",
        )
