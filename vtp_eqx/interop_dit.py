"""Published LightningDiT state dicts <-> `DiT`, by one table of names.

The published layout (hustvl/LightningDiT) has one tensor a block, convolutional patches
and fixed positions as tensors. Here blocks are stacked, patches are a matrix, and
positions are a formula: read in, they are compared with it.
"""

from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array
import numpy as np

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.models.dit import DiT, sincos_table
from vtp_eqx.nn.rope import integer_table


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

# Published config key -> field of `DiTConfig`.
FIELDS = {
    "hidden_size": "width",
    "depth": "depth",
    "num_heads": "num_heads",
    "in_channels": "latent_width",
    "input_size": "latent_size",
    "patch_size": "patch_size",
    "num_classes": "num_classes",
    "use_qknorm": "qk_norm",
    "use_rmsnorm": "rmsnorm",
    "use_rope": "rope",
    "use_swiglu": "swiglu",
}
POSITION_TOLERANCE = 1e-4


def dit_from_published(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> DiT:
    """The model of a published state dict and its configuration keys.

    Keys of `config` that say how to train or sample are not read. A tensor too many,
    too few or of a wrong shape is a `ValueError` that names it.
    """
    ours = config_from_published(config)
    empty = eqx.filter_eval_shape(lambda key: DiT(ours, key=key), jax.random.key(0))
    _check_names(tensors, empty)
    _check_positions(tensors, ours)
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
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


def dit_to_published(dit: DiT) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The published state dict of a model, and its configuration keys."""
    config = {name: getattr(dit.config, field) for name, field in FIELDS.items()}
    config["wo_shift"] = not dit.config.shift
    tensors = {name: np.asarray(tensor) for name, tensor in _tensors(dit).items()}
    return {**tensors, **_positions(dit.config)}, config


def config_from_published(config: dict[str, Any]) -> DiTConfig:
    """The shape that published configuration keys describe."""
    missing = sorted({*FIELDS, "wo_shift"} - config.keys())
    require(not missing, f"A published config has every shape key; missing: {missing}.")
    require(
        not config.get("learn_sigma", False),
        "A flow model predicts a velocity and no variance; got `learn_sigma` true: "
        "use a checkpoint without it.",
    )
    fields = {field: config[name] for name, field in FIELDS.items()}
    return DiTConfig(**fields, shift=not config["wo_shift"])


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


def _positions(config: DiTConfig) -> dict[str, np.ndarray]:
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


def _check_names(tensors: dict[str, np.ndarray], empty: DiT) -> None:
    expected = {
        name: tensor.shape
        for name, tensor in (
            eqx.filter_eval_shape(_tensors, empty) | _positions(empty.config)
        ).items()
    }
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    require(
        not missing and not unknown,
        "A state dict has exactly the tensors of its config; "
        f"missing: {missing}, unknown: {unknown}: check the config's switches.",
    )
    wrong = [
        f"{name} {tensors[name].shape} for {shape}"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    require(
        not wrong,
        f"Tensors have the shapes of their config; got {'; '.join(wrong)}: "
        "check the config's sizes.",
    )


def _check_positions(tensors: dict[str, np.ndarray], config: DiTConfig) -> None:
    for name, formula in _positions(config).items():
        difference = np.abs(np.asarray(tensors[name], np.float32) - formula).max()
        require(
            bool(difference < POSITION_TOLERANCE),
            f"Positions are a fixed formula; got `{name}` off by {difference:.1e}: "
            "a model with other positions would compute something else here.",
        )
