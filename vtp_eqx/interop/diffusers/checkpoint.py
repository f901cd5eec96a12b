"""State dicts and folders of `AutoencoderVTP` to tokenizers and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Shaped
import numpy as np

from vtp_eqx.config import require, TokenizerConfig
from vtp_eqx.files import write_text
from vtp_eqx.interop.diffusers.settings import (
    config_from_diffusers,
    config_to_diffusers,
    ORIGIN,
    STATISTICS,
)
from vtp_eqx.interop.settings import read_statistic
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.models.input_checks import check_measured, check_unrounded
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.tensor_files import CONFIG_FILE, read_object, read_tensors, write_model
from vtp_eqx.tensor_files.name_table import in_blocks, Layout, Names, NameTable, Tensors


Arrays = dict[str, Shaped[Array, "..."]]
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
MODULE = Path(__file__).with_name("autoencoder_vtp.py")

_OUTSIDE: Names = {
    "encoder.embed": "encoder.patch_embed",
    "encoder.cls_token": "encoder.cls_token",
    "encoder.norm": "encoder.norm",
    "encoder.out": "bottleneck",
    "decoder.embed": "decoder.embed",
    "decoder.norm": "decoder.norm",
    "decoder.out": "decoder.to_pixels",
    # Of pre-training: images are encoded and decoded without them.
    "mask_token": "encoder.mask_token",
    "text.token_embedding": "text.token_embedding",
    "text.positions": "text.positions",
    "text.norm": "text.norm",
    "text.projection": "text.projection",
    "projection": "projection",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
_BLOCK: Names = {
    "attention_norm": "attention_norm",
    "to_qkv": "attention.to_qkv",
    "query_norm": "attention.query_norm",
    "key_norm": "attention.key_norm",
    "to_out": "attention.to_out",
    "attention_scale": "attention_scale",
    "feed_forward_norm": "feed_forward_norm",
    "gate": "feed_forward.gate",
    "up": "feed_forward.up",
    "out": "feed_forward.out",
    "feed_forward_scale": "feed_forward_scale",
}


def tokenizer_from_diffusers(tensors: Tensors, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a state dict and its `config.json` describe.

    A `ValueError` names the tensors that are missing, unknown, of another shape or no
    floats, and settings and statistics that are none.
    """
    config = config_from_diffusers(settings)
    origin = settings.get(ORIGIN, "")
    require(
        isinstance(origin, str),
        f"`{ORIGIN}` ({str(origin)[:60]}) must be a text: remove it.",
    )
    skeleton = eqx.filter_eval_shape(Tokenizer, config, origin=origin, key=jr.key(0))
    arrays = _name_table(skeleton).read(tensors)
    arrays |= _statistics(settings, config.latent_width)
    return with_arrays(skeleton, arrays)


def tokenizer_to_diffusers(tokenizer: Tokenizer) -> tuple[Tensors, dict[str, Any]]:
    """The state dict and settings that `tokenizer_from_diffusers` takes.

    The tensors of the text tower come too, and nothing is lost. A `ValueError` where
    the statistics of the latents were never measured, or are not finite and positive
    deviations, and where weights were rounded.
    """
    check_measured(tokenizer.is_measured)
    check_unrounded(tokenizer.precision)
    settings = config_to_diffusers(tokenizer.config)
    for theirs, ours in STATISTICS.items():
        settings[theirs] = np.asarray(getattr(tokenizer, ours)).tolist()
    _statistics(settings, tokenizer.config.latent_width)
    if tokenizer.origin:
        settings[ORIGIN] = tokenizer.origin
    return _name_table(tokenizer).write(named_arrays(tokenizer)), settings


def is_diffusers(where: Path) -> bool:
    """Whether a folder, or that of a file, has the config of a diffusers model."""
    config = _folder(where) / CONFIG_FILE
    return config.is_file() and describes_diffusers(read_object(config))


def describes_diffusers(settings: Mapping[str, Any]) -> bool:
    """Whether settings are those of a diffusers model."""
    return "_class_name" in settings


def read_diffusers(where: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and settings of a folder, or of a file with its config beside it."""
    weights = where if where.is_file() else where / DIFFUSERS_WEIGHTS
    return read_tensors(weights), read_object(_folder(where) / CONFIG_FILE)


def save_diffusers(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights and config, and the file that computes with them in PyTorch."""
    tensors, settings = tokenizer_to_diffusers(tokenizer)
    write_text(folder / MODULE.name, MODULE.read_text())
    write_model(folder, DIFFUSERS_WEIGHTS, tensors, settings)


def autoencoder_outputs(tokenizer: Tokenizer) -> tuple[Arrays, Arrays]:
    """Images as the PyTorch file takes them, and our latents and images of them.

    In [-1, 1] and with channels first.
    """
    size = tokenizer.config.image_size
    images = jr.uniform(jr.key(0), (2, size, size, 3))
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = jax.vmap(tokenizer.decode)(latents)
    inputs = {"images": jnp.moveaxis(2 * images - 1, -1, 1)}
    outputs = {
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(2 * decoded - 1, -1, 1),
    }
    return inputs, outputs


def _statistics(settings: dict[str, Any], width: int) -> Tensors:
    """Mean and deviation of the latents by our names, or a `ValueError`."""
    found = {
        ours: read_statistic(theirs, settings.get(theirs), width)
        for theirs, ours in STATISTICS.items()
    }
    smallest = float(found["latent_std"].min())
    require(
        smallest > 0,
        f"`latents_std` ({smallest} in one channel) must be positive, for latents are "
        "divided by it: measure it on other images, or train without that channel.",
    )
    return found


def _name_table(tokenizer: Tokenizer) -> NameTable:
    """The table of a tokenizer, or of its skeleton of shapes."""
    names = dict(_OUTSIDE)
    for name in ("encoder", "decoder", "text"):
        names |= in_blocks(f"{name}.blocks", f"{name}.stack.blocks", _BLOCK)
    return NameTable(names, named_arrays(tokenizer), _layouts(tokenizer.config))


def _layouts(config: TokenizerConfig) -> dict[str, Layout]:
    """Inside a patch we have the channel fastest, PyTorch's (un)shuffling slowest."""
    sizes = {"p": config.patch_size, "q": config.patch_size, "c": 3}
    return {
        "encoder.embed.weight": Layout("d (p q c)", "d (c p q)", sizes),
        "decoder.out.weight": Layout("(p q c) d", "(c p q) d", sizes),
        "decoder.out.bias": Layout("(p q c)", "(c p q)", sizes),
    }


def _folder(where: Path) -> Path:
    return where.parent if where.is_file() else where
