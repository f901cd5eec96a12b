"""Published LightningDiT state dicts to models and back: the table of names."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Shaped
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
from vtp_eqx.nn.rope import integer_table
from vtp_eqx.tensor_files import as_float32
from vtp_eqx.tensor_files.name_table import (
    in_blocks,
    Names,
    NameTable,
    patch_layout,
    Tensors,
    TIMM_BLOCK,
    TIMM_MLP,
    TIMM_SWIGLU,
)


Arrays = dict[str, Shaped[Array, "..."]]

_OUTSIDE: Names = {
    "x_embedder.proj": "to_tokens",
    "t_embedder.mlp.0": "time_in",
    "t_embedder.mlp.2": "time_out",
    "y_embedder.embedding_table.weight": "labels",
    "final_layer.norm_final": "norm",
    "final_layer.adaLN_modulation.1": "modulation",
    "final_layer.linear": "to_velocity",
}
_BLOCK: Names = {**TIMM_BLOCK, "adaLN_modulation.1": "modulation"}

POSITION_TOLERANCE = 1e-4


def dit_from_published(tensors: Tensors, config: dict[str, Any]) -> DiT:
    """The model of a published state dict and its configuration keys.

    Keys of `config` that say how to train or sample are kept for the way back; a
    `latents_hash` is of a `Generator`. A tensor too many, too few, of a wrong shape or
    no floats is a `ValueError` that names it.
    """
    config = {name: config[name] for name in config if name != LATENTS_HASH}
    ours = config_from_published(config)
    make = functools.partial(eqx.filter_eval_shape, DiT, ours, key=jr.key(0))
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
    settings = config_to_published(dit.config)
    was = config_from_published(origin.settings or settings)
    # On which numbers depend by rounding alone.
    names = ("remat", "attention", "float32_logits", "residual")
    ours = {name: getattr(dit.config, name) for name in names}
    is_unchanged = dataclasses.replace(was, **ours) == dit.config
    settings, positions = origin.restored(
        settings, _positions(dit.config), is_unchanged=is_unchanged
    )
    return {**_name_table(dit).write(named_arrays(dit)), **positions}, settings


def dit_outputs(dit: DiT) -> tuple[Arrays, Arrays]:
    """Some inputs, and the velocity there, in the layout of the published code."""
    config = dit.config
    side, channels = config.latent_size, config.latent_width
    latents = jr.normal(jr.key(0), (3, side, side, channels))
    times, labels = jnp.array([0.0, 0.4, 1.0]), jnp.arange(3) % config.num_classes
    velocity = eqx.filter_jit(dit.batch)(latents, times, labels)
    inputs = {"x": jnp.moveaxis(latents, -1, 1), "t": times, "y": labels}
    return inputs, {"velocity": jnp.moveaxis(velocity, -1, 1)}


def _name_table(dit: DiT) -> NameTable:
    block = {**_BLOCK, **(TIMM_SWIGLU if dit.config.swiglu else TIMM_MLP)}
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
