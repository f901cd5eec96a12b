"""Published LightningDiT state dicts to models and back: the table of names."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import ml_dtypes
import numpy as np

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.interop.lightningdit.settings import (
    config_from_published,
    config_to_published,
    LATENTS_HASH,
)
from vtp_eqx.interop.passthrough import origin_of, read_origin
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.models.dit import DiT, sincos_table
from vtp_eqx.name_table import in_blocks, Names, NameTable, patch_layout, Tensors
from vtp_eqx.nn.rope import integer_table
from vtp_eqx.tensor_files import as_float32


_OUTSIDE: Names = {
    "x_embedder.proj": "to_tokens",
    "t_embedder.mlp.0": "time_in",
    "t_embedder.mlp.2": "time_out",
    "y_embedder.embedding_table.weight": "labels",
    "final_layer.norm_final": "norm",
    "final_layer.adaLN_modulation.1": "modulation",
    "final_layer.linear": "to_velocity",
}
_BLOCK: Names = {
    "adaLN_modulation.1": "modulation",
    "norm1": "attention_norm",
    "attn.qkv": "attention.to_qkv",
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "attn.proj": "attention.to_out",
    "norm2": "feed_forward_norm",
}
_MLP: Names = {"mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.out"}
_SWIGLU: Names = {
    "mlp.w12": ("feed_forward.gate", "feed_forward.up"),
    "mlp.w3": "feed_forward.out",
}

POSITION_TOLERANCE = 1e-4
# What wrappers for several devices and for compilation put before every name.
WRAPPERS = ("module.", "_orig_mod.")


def dit_from_published(tensors: Tensors, config: dict[str, Any]) -> DiT:
    """The model of a published state dict and its configuration keys.

    Keys of `config` that say how to train or sample are kept for the way back; a
    `latents_hash` is of a `Generator`. A tensor too many, too few, of a wrong shape or
    no floats is a `ValueError` that names it.
    """
    config = {name: config[name] for name in config if name != LATENTS_HASH}
    ours = config_from_published(config)
    tensors = unwrapped(tensors)
    make = functools.partial(eqx.filter_eval_shape, DiT, ours, key=jax.random.key(0))
    arrays = _name_table(make()).read(tensors, constants=_position_shapes(ours))
    _check_positions(tensors, ours)
    positions = _positions(ours)
    origin = origin_of(config, config_to_published(ours), tensors, positions)
    return with_arrays(make(origin=origin), arrays)


def dit_to_published(dit: DiT) -> tuple[Tensors, dict[str, Any]]:
    """The published state dict of a model, and its configuration keys.

    What was published comes back as it was, to the last bit of its positions.
    """
    origin = read_origin(dit.origin)
    config, positions = config_to_published(dit.config), _positions(dit.config)
    was = config_from_published(origin.settings or config)
    ours = {"remat": dit.config.remat, "attention": dit.config.attention}
    if dataclasses.replace(was, **ours) == dit.config:
        config, positions = (
            origin.settings or config,
            {**positions, **origin.constants},
        )
    else:
        config = {**origin.settings, **config}
    return {**_name_table(dit).write(named_arrays(dit)), **positions}, config


def unwrapped(tensors: Tensors) -> Tensors:
    """`tensors` without the prefixes that wrappers of a model put before its names."""
    for wrapper in WRAPPERS:
        tensors = {name.removeprefix(wrapper): t for name, t in tensors.items()}
    return tensors


def _name_table(dit: DiT) -> NameTable:
    block = {**_BLOCK, **(_SWIGLU if dit.config.swiglu else _MLP)}
    patches = patch_layout(dit.config.patch_size, dit.config.latent_width)
    return NameTable(
        {**_OUTSIDE, **in_blocks("blocks", "blocks", block)},
        named_arrays(dit),
        {"x_embedder.proj.weight": patches},
    )


def _positions(config: DiTConfig) -> Tensors:
    grid = config.latent_size // config.patch_size
    tensors = {"pos_embed": sincos_table(grid, config.width)[None]}
    if config.rope:
        table = integer_table(grid, grid, config.width // config.num_heads)
        tensors["feat_rope.freqs_cos"] = table.cos
        tensors["feat_rope.freqs_sin"] = table.sin
    return tensors


def _position_shapes(config: DiTConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes alone: a table of the wrong size may be one that no memory holds."""
    length = (config.latent_size // config.patch_size) ** 2
    shapes = {"pos_embed": (1, length, config.width)}
    if config.rope:
        table = (length, config.width // config.num_heads)
        shapes |= {"feat_rope.freqs_cos": table, "feat_rope.freqs_sin": table}
    return {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()
    }


def _check_positions(tensors: Tensors, config: DiTConfig) -> None:
    for name, formula in _positions(config).items():
        stored = as_float32(tensors[name], name)
        difference = np.abs(stored - formula).max()
        # A table stored in half precision is off by its rounding.
        rounding = float(ml_dtypes.finfo(tensors[name].dtype).eps)
        require(
            bool(difference < max(POSITION_TOLERANCE, rounding)),
            f"Positions are a fixed formula; got `{name}` off by {difference:.1e}: "
            "a model with other positions would compute something else here.",
        )
