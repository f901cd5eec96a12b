"""The arrays of a model by name: to write them, to fill them in, to identify them."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vtp_eqx.models.input_checks import check_measured
from vtp_eqx.models.tokenizer import Tokenizer


Model = TypeVar("Model")

STATISTICS = ("latent_mean", "latent_std")
ENCODER = ("encoder.", "bottleneck.")  # the parts that make latents


def leaf_path(path: tuple) -> str:
    """A tree path as names joined by dots: `encoder.blocks.attention.to_qkv.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_arrays(model: Any) -> dict[str, Any]:
    """Every array, or shape of a skeleton, by its path: `encoder.norm.weight`, say."""
    return {leaf_path(path): leaf for path, leaf in jax.tree.leaves_with_path(model)}


def with_arrays(skeleton: Model, arrays: Mapping[str, Any]) -> Model:
    """`skeleton`, whose leaves are arrays or shapes, with the arrays of their paths."""
    leaves = [jnp.asarray(arrays[path]) for path in named_arrays(skeleton)]
    return jax.tree.unflatten(jax.tree.structure(skeleton), leaves)


def weights_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the weights; statistics are not weights."""
    arrays = named_arrays(tokenizer)
    return arrays_hash(
        {name: arrays[name] for name in arrays if name not in STATISTICS}
    )


def latents_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name normalized latents, and what makes them.

    Of the encoder, the bottleneck and the statistics: a generator only fits a tokenizer
    with this hash. Weights count as rounded to bfloat16, so that every precision of one
    tokenizer has one hash. Reads all those weights: call it once, not for each batch. A
    `ValueError` where the statistics were never measured.
    """
    check_measured(tokenizer.is_measured)
    arrays = {
        name: array if name in STATISTICS else _rounded(array)
        for name, array in named_arrays(tokenizer).items()
        if name in STATISTICS or name.startswith(ENCODER)
    }
    return _hash_with_shape(tokenizer, arrays)


def text_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the text tower, or "" where there is none.

    As with `latents_hash`, weights count as rounded to bfloat16.
    """
    arrays = {name: _rounded(a) for name, a in named_arrays(tokenizer.text).items()}
    return arrays_hash(arrays) if arrays else ""


def encoder_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name raw latents, to the last bit.

    Of the encoder and the bottleneck as they are, rounded or not.
    """
    arrays = named_arrays(tokenizer)
    return _hash_with_shape(
        tokenizer, {name: arrays[name] for name in arrays if name.startswith(ENCODER)}
    )


def _hash_with_shape(tokenizer: Tokenizer, arrays: Mapping[str, Any]) -> str:
    config = tokenizer.config
    # What changes latents and is not to be seen in the arrays.
    shape = {
        "patch_size": config.patch_size,
        "pixel_mean": config.pixel_mean,
        "pixel_std": config.pixel_std,
        "rope": config.rope,
        "num_heads": config.encoder.num_heads,
        "norm": config.encoder.norm,
        "feed_forward": config.encoder.feed_forward,
        "qk_norm": config.encoder.qk_norm,
    }
    if config.latent_norm != "none":  # as a `later` field: hashes of before stay
        shape["latent_norm"] = config.latent_norm
    if config.readout_layers != 1:
        shape["readout_layers"] = config.readout_layers
    if config.readout != "mean":
        shape["readout"] = config.readout
    text = f"{json.dumps(shape, sort_keys=True)} {arrays_hash(arrays)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def statistics_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the statistics of the latents alone.

    What tokenizers and generators were saved with before there was `latents_hash`.
    """
    arrays = named_arrays(tokenizer)
    return arrays_hash({name: arrays[name] for name in STATISTICS})


def _rounded(array: Any) -> np.ndarray:
    """`array` in bfloat16; devices differ in whether they keep numbers below normal."""
    values = np.asarray(array).astype(np.float32)
    is_normal = np.abs(values) >= np.finfo(np.float32).tiny
    return np.where(is_normal, values, np.float32(0)).astype(ml_dtypes.bfloat16)


def arrays_hash(arrays: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name arrays by names and content."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
