"""Published state dicts to tokenizers and back."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float
import numpy as np

from vtp_eqx.config import require, TokenizerConfig
from vtp_eqx.interop.names import at, rows, Tensors
from vtp_eqx.interop.settings import config_from_published, config_to_published
from vtp_eqx.models.arrays import check_arrays, STATISTICS
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.rope import axial_periods, Precision


def tokenizer_from_published(tensors: Tensors, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a published state dict and its `config.json` describe.

    Weights become float32, and the rotary precision is that of the stored periods. A
    `ValueError` names the tensors that are missing, unknown or of another shape, and
    settings that this library does not have.
    """
    shape = config_from_published(config)
    shape = dataclasses.replace(shape, rope=_stored_precision(tensors, shape))
    skeleton = eqx.filter_eval_shape(Tokenizer, shape, key=jr.key(0))
    weights = eqx.filter_eval_shape(_weights, skeleton)
    check_arrays(tensors, {**weights, **_periods(shape)})
    _check_periods(tensors, shape)

    arrays = {
        row.path: row.read(tensors, shape.patch_size) for row in rows(skeleton, shape)
    }
    for name, start in zip(STATISTICS, (0.0, 1.0), strict=True):
        values = config.get(name, [start] * shape.latent_width)
        arrays[name] = jnp.asarray(values, jnp.float32)
    if shape.text is None:  # then the layout has no scale either: ours is as it starts
        for name in ("logit_scale", "logit_bias"):
            if at(shape, name) is not None:
                arrays[name] = jnp.asarray(at(shape, name), jnp.float32)
    return eqx.tree_at(
        lambda tree: [at(tree, path) for path in arrays], skeleton, [*arrays.values()]
    )


def tokenizer_to_published(tokenizer: Tokenizer) -> tuple[Tensors, dict[str, Any]]:
    """The state dict and config that `tokenizer_from_published` takes.

    The published layout does not know the statistics of the latents: they travel in
    the config, under our names. What it cannot say is a `ValueError`.
    """
    config = config_to_published(tokenizer.config)
    for name in STATISTICS:
        config[name] = np.asarray(getattr(tokenizer, name)).tolist()
    weights = {name: np.asarray(array) for name, array in _weights(tokenizer).items()}
    return {**weights, **_periods(tokenizer.config)}, config


def _weights(tokenizer: Tokenizer) -> dict[str, Float[Array, "..."]]:
    weights = {}
    for row in rows(tokenizer, tokenizer.config):
        array = at(tokenizer, row.path)
        weights |= row.write(array, tokenizer.config.patch_size)
    return weights


def _periods(config: TokenizerConfig) -> Tensors:
    """The rotary periods, which the published layout stores beside the weights."""
    return {
        f"{part}.rope_embed.periods": axial_periods(
            tower.width // tower.num_heads, config.rope
        )
        for part, tower in (
            ("trunk", config.encoder),
            ("pixel_decoder", config.decoder),
        )
    }


def _stored_precision(tensors: Tensors, config: TokenizerConfig) -> Precision:
    """The rotary precision of a checkpoint, told by its periods."""
    for name, exact in _periods(dataclasses.replace(config, rope="float32")).items():
        # By value, for a file of bfloat16 periods may have been saved as float32.
        stored = tensors.get(name)
        if stored is None or stored.dtype != np.float32 or not _same(stored, exact):
            return "bfloat16"
    return "float32"


def _check_periods(tensors: Tensors, config: TokenizerConfig) -> None:
    for name, periods in _periods(config).items():
        require(
            _same(tensors[name], periods),
            f"`{name}` holds powers of 100, as in every published model; got "
            f"{tensors[name].astype(np.float32)}: this checkpoint cannot be read.",
        )


def _same(stored: np.ndarray, expected: np.ndarray) -> bool:
    stored, expected = stored.astype(np.float32), expected.astype(np.float32)
    # Powers differ between libraries in their last bits.
    return stored.shape == expected.shape and np.allclose(stored, expected, rtol=1e-6)
