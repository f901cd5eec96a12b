"""Published state dicts to tokenizers and back."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax.random as jr
import ml_dtypes
import numpy as np

from vtp_eqx.config import Precision, require, TokenizerConfig
from vtp_eqx.interop.passthrough import origin_of, read_origin
from vtp_eqx.interop.statistics import read_statistic
from vtp_eqx.interop.vtp.names import name_table
from vtp_eqx.interop.vtp.settings import config_from_published, config_to_published
from vtp_eqx.models.arrays import named_arrays, STATISTICS, with_arrays
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.name_table import Tensors
from vtp_eqx.nn.rope import axial_periods
from vtp_eqx.tensor_files import as_float32


# Of the latents' statistics, until they are measured.
_STARTS = dict(zip(STATISTICS, (0.0, 1.0), strict=True))


def tokenizer_from_published(tensors: Tensors, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a published state dict and its `config.json` describe.

    Weights become float32, and the rotary precision is that of the stored periods. A
    `ValueError` names the tensors that are missing, unknown, of another shape or no
    floats, and settings that this library does not have.
    """
    statistics = {name: config[name] for name in STATISTICS if name in config}
    settings = {name: config[name] for name in config if name not in statistics}
    shape = config_from_published(settings)
    shape = dataclasses.replace(shape, rope=_stored_precision(tensors, shape))
    make = functools.partial(eqx.filter_eval_shape, Tokenizer, shape, key=jr.key(0))
    arrays = name_table(make()).read(tensors, constants=_periods(shape))
    _check_periods(tensors, shape)
    for name, start in _STARTS.items():
        values = statistics.get(name, [start] * shape.latent_width)
        arrays[name] = read_statistic(name, values, shape.latent_width)
    if shape.text is None:  # then the layout has no scale either: ours is as it starts
        for name in ("logit_scale", "logit_bias"):
            if getattr(shape, name) is not None:
                arrays[name] = np.asarray(getattr(shape, name), np.float32)
    origin = origin_of(settings, config_to_published(shape), tensors, _periods(shape))
    return with_arrays(make(origin=origin), arrays)


def tokenizer_to_published(tokenizer: Tokenizer) -> tuple[Tensors, dict[str, Any]]:
    """The state dict and config that `tokenizer_from_published` takes.

    What was published comes back as it was: every tensor to the last bit, every setting
    of the config, those that mean nothing here included. The layout does not know the
    statistics of the latents: where they were measured, they travel in the config,
    under our names. What it cannot say is a `ValueError`.

    The published code rounds rotary positions to bfloat16 whatever it loads: only a
    tokenizer with `rope = "bfloat16"` computes the same there.
    """
    origin = read_origin(tokenizer.origin)
    settings, periods = (
        config_to_published(tokenizer.config),
        _periods(tokenizer.config),
    )
    was = config_from_published(origin.settings or settings)
    if dataclasses.replace(was, rope=tokenizer.config.rope) == tokenizer.config:
        settings = origin.settings or settings
        periods |= origin.constants
    else:
        settings = {**origin.settings, **settings}
    if tokenizer.is_measured:
        measured = {name: np.asarray(getattr(tokenizer, name)) for name in STATISTICS}
        settings = settings | {name: a.tolist() for name, a in measured.items()}
    weights = name_table(tokenizer).write(named_arrays(tokenizer))
    return {**weights, **periods}, settings


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
        if stored is None or stored.dtype == ml_dtypes.bfloat16:
            return "bfloat16"
        if not _same(stored, exact):
            return "bfloat16"
    return "float32"


def _check_periods(tensors: Tensors, config: TokenizerConfig) -> None:
    for name, periods in _periods(config).items():
        stored = as_float32(tensors[name], name)
        require(
            _same(tensors[name], periods),
            f"`{name}` holds powers of 100, as in every published model; got {stored}: "
            "this checkpoint cannot be read.",
        )


def _same(stored: np.ndarray, expected: np.ndarray) -> bool:
    """Whether `stored` is `expected`, rounded to its own type if that is shorter."""
    if stored.dtype == np.float16:
        expected = expected.astype(np.float16)
    stored, expected = stored.astype(np.float32), expected.astype(np.float32)
    # Powers differ between libraries in their last bits.
    return stored.shape == expected.shape and np.allclose(stored, expected, rtol=1e-6)
