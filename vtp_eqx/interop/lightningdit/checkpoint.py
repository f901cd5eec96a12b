"""Published LightningDiT state dicts to models and back: the table of names."""

import dataclasses
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array
import ml_dtypes
import numpy as np

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.interop.lightningdit.settings import (
    config_from_published,
    config_to_published,
)
from vtp_eqx.interop.passthrough import origin_of, read_origin
from vtp_eqx.models.arrays import check_arrays, check_depth
from vtp_eqx.models.dit import DiT, sincos_table
from vtp_eqx.nn.rope import integer_table
from vtp_eqx.tensor_files import as_float32


Tensors = dict[str, np.ndarray]

# Published module -> ours; two of ours are rows of one published matrix.
MODULES = {
    "x_embedder.proj": ("to_tokens",),
    "t_embedder.mlp.0": ("time_in",),
    "t_embedder.mlp.2": ("time_out",),
    "final_layer.norm_final": ("norm",),
    "final_layer.adaLN_modulation.1": ("modulation",),
    "final_layer.linear": ("to_velocity",),
}
BLOCK_MODULES = {
    "adaLN_modulation.1": ("modulation",),
    "norm1": ("attention_norm",),
    "attn.qkv": ("attention.to_qkv",),
    "attn.q_norm": ("attention.query_norm",),
    "attn.k_norm": ("attention.key_norm",),
    "attn.proj": ("attention.to_out",),
    "norm2": ("feed_forward_norm",),
}
SWIGLU = {
    "mlp.w12": ("feed_forward.gate", "feed_forward.up"),
    "mlp.w3": ("feed_forward.out",),
}
MLP = {"mlp.fc1": ("feed_forward.up",), "mlp.fc2": ("feed_forward.out",)}
LABELS = "y_embedder.embedding_table.weight"
PATCHES = "x_embedder.proj.weight"

POSITION_TOLERANCE = 1e-4
# What wrappers for several devices and for compilation put before every name.
WRAPPERS = ("module.", "_orig_mod.")


def dit_from_published(tensors: Tensors, config: dict[str, Any]) -> DiT:
    """The model of a published state dict and its configuration keys.

    Keys of `config` that say how to train or sample are kept for the way back. A tensor
    too many, too few, of a wrong shape or no floats is a `ValueError` that names it.
    """
    ours = config_from_published(config)
    tensors = unwrapped(tensors)
    empty = eqx.filter_eval_shape(lambda key: DiT(ours, key=key), jax.random.key(0))
    _check_names(tensors, empty)
    _check_positions(tensors, ours)
    positions = _positions(ours)
    origin = origin_of(config, config_to_published(ours), tensors, positions)
    empty = eqx.filter_eval_shape(
        lambda key: DiT(ours, origin=origin, key=key), jax.random.key(0)
    )
    tensors = {name: as_float32(tensor, name) for name, tensor in tensors.items()}
    tensors[PATCHES] = _as_matrix(tensors[PATCHES])

    paths, values = [], []
    for name, leaves in _table(empty).items():
        if "{}" in name:
            layers = [tensors[name.format(layer)] for layer in range(ours.depth)]
            joined, axis = np.stack(layers), 1
        else:
            joined, axis = tensors[name], 0
        sizes = [attrgetter(leaf)(empty).shape[axis] for leaf in leaves]
        paths += leaves
        values += np.split(joined, np.cumsum(sizes)[:-1], axis=axis)
    return eqx.tree_at(
        lambda dit: [attrgetter(path)(dit) for path in paths],
        empty,
        [jnp.asarray(value) for value in values],
    )


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
    tensors = {name: np.asarray(tensor) for name, tensor in _tensors(dit).items()}
    return {**tensors, **positions}, config


def unwrapped(tensors: Tensors) -> Tensors:
    """`tensors` without the prefixes that wrappers of a model put before its names."""
    for wrapper in WRAPPERS:
        tensors = {name.removeprefix(wrapper): t for name, t in tensors.items()}
    return tensors


def _table(dit: DiT) -> dict[str, list[str]]:
    """Published tensor -> paths of our leaves; "{}" stands for a block's number."""
    feed_forward = SWIGLU if dit.config.swiglu else MLP
    modules = MODULES | {
        f"blocks.{{}}.{name}": tuple(f"blocks.{path}" for path in paths)
        for name, paths in (BLOCK_MODULES | feed_forward).items()
    }
    table = {LABELS: ["labels"]}
    for name, paths in modules.items():
        for kind in ("weight", "bias"):
            # Absent: norms that are off or have no weights, biases of RMSNorm.
            if getattr(attrgetter(paths[0])(dit), kind, None) is not None:
                table[f"{name}.{kind}"] = [f"{path}.{kind}" for path in paths]
    return table


def _tensors(dit: DiT) -> dict[str, Array]:
    """The trained tensors of a model, under their published names."""
    tensors = {}
    for name, paths in _table(dit).items():
        leaves = [attrgetter(path)(dit) for path in paths]
        if "{}" in name:
            layers = jnp.concatenate(leaves, axis=1)
            tensors |= {name.format(i): layer for i, layer in enumerate(layers)}
        else:
            tensors[name] = jnp.concatenate(leaves)
    tensors[PATCHES] = _as_convolution(tensors[PATCHES], dit.config.patch_size)
    return tensors


def _positions(config: DiTConfig) -> Tensors:
    grid = config.latent_size // config.patch_size
    tensors = {"pos_embed": sincos_table(grid, config.width)[None]}
    if config.rope:
        table = integer_table(grid, grid, config.width // config.num_heads)
        tensors["feat_rope.freqs_cos"] = table.cos
        tensors["feat_rope.freqs_sin"] = table.sin
    return tensors


def _as_matrix(weight: np.ndarray) -> np.ndarray:
    """[width, channels, p, p] -> [width, pixels], the channel fastest."""
    return weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _as_convolution(weight: Array, patch_size: int) -> Array:
    shape = (weight.shape[0], patch_size, patch_size, -1)
    return weight.reshape(shape).transpose(0, 3, 1, 2)


def _check_names(tensors: Tensors, empty: DiT) -> None:
    config = empty.config
    check_depth(config.depth, tensors)
    length = (config.latent_size // config.patch_size) ** 2
    # Shapes alone: a table of the wrong size may be one that no memory holds.
    positions = {"pos_embed": (1, length, config.width)}
    if config.rope:
        table = (length, config.width // config.num_heads)
        positions |= {"feat_rope.freqs_cos": table, "feat_rope.freqs_sin": table}
    fixed = {
        name: jax.ShapeDtypeStruct(shape, np.float32)
        for name, shape in positions.items()
    }
    check_arrays(tensors, {**eqx.filter_eval_shape(_tensors, empty), **fixed})


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
