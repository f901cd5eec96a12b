"""Published state dicts to tokenizers and back, by one table of names."""

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

from vtp_eqx.config import Precision, require, TokenizerConfig
from vtp_eqx.interop.passthrough import origin_of, read_origin
from vtp_eqx.interop.settings import read_statistic
from vtp_eqx.interop.vtp.settings import config_from_published, config_to_published
from vtp_eqx.models.arrays import named_arrays, STATISTICS, with_arrays
from vtp_eqx.models.input_checks import check_unrounded
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.rope import axial_periods
from vtp_eqx.tensor_files import as_float32
from vtp_eqx.tensor_files.name_table import (
    in_blocks,
    Layout,
    Names,
    NameTable,
    patch_layout,
    Tensors,
    TIMM_BLOCK,
    TIMM_MLP,
)


Arrays = dict[str, Shaped[Array, "..."]]

# Of the latents' statistics, until they are measured.
_STARTS = dict(zip(STATISTICS, (0.0, 1.0), strict=True))

_VISION: Names = {
    "trunk.cls_token": "encoder.cls_token",
    "trunk.mask_token": "encoder.mask_token",
    "trunk.patch_embed.proj": "encoder.patch_embed",
    "trunk.norm": "encoder.norm",
    "trunk.feature_bottleneck": "bottleneck",
    "pixel_decoder.proj_in": "decoder.embed",
    "pixel_decoder.norm": "decoder.norm",
    "pixel_decoder.proj_out": "decoder.to_pixels",
}
_CONTRAST: Names = {
    "token_embedding.weight": "text.token_embedding",
    "positional_embedding": "text.positions",
    "ln_final": "text.norm",
    "text_projection": "text.projection",
    "visual_proj": "projection",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
_SWIGLU: Names = {
    "mlp.w1": "feed_forward.gate",
    "mlp.w2": "feed_forward.up",
    "mlp.w3": "feed_forward.out",
}
_TEXT_BLOCK: Names = {
    "ln_1": "attention_norm",
    "attn.in_proj_weight": "attention.to_qkv.weight",
    "attn.in_proj_bias": "attention.to_qkv.bias",
    "attn.out_proj": "attention.to_out",
    "ls_1.gamma": "attention_scale",
    "ln_2": "feed_forward_norm",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.out",
    "ls_2.gamma": "feed_forward_scale",
}


def name_table(tokenizer: Tokenizer) -> NameTable:
    """The table of a tokenizer, or of its skeleton of shapes."""
    config = tokenizer.config
    names = dict(_VISION)
    for name, path, tower in (
        ("trunk", "encoder", config.encoder),
        ("pixel_decoder", "decoder", config.decoder),
    ):
        block = {**TIMM_BLOCK, **(TIMM_MLP if tower.feed_forward == "mlp" else _SWIGLU)}
        names |= in_blocks(f"{name}.blocks", f"{path}.stack.blocks", block)
    if config.text is not None:
        names |= _CONTRAST
        path = "text.stack.blocks"
        names |= in_blocks("text_transformer.resblocks", path, _TEXT_BLOCK)
    return NameTable(names, named_arrays(tokenizer), _layouts(config))


def _layouts(config: TokenizerConfig) -> dict[str, Layout]:
    pixels = {"p": config.patch_size, "q": config.patch_size, "c": 3}
    return {
        "trunk.cls_token": Layout("d", "1 1 d"),
        "trunk.mask_token": Layout("d", "1 d"),
        "trunk.patch_embed.proj.weight": patch_layout(config.patch_size, 3),
        "pixel_decoder.proj_in.weight": Layout("d z", "d z 1 1"),
        "pixel_decoder.proj_out.weight": Layout("(p q c) d", "(c p q) d 1 1", pixels),
        "pixel_decoder.proj_out.bias": Layout("(p q c)", "(c p q)", pixels),
    }


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
    under our names. What it cannot say is a `ValueError`, and so are rounded weights.

    The published code rounds rotary positions to bfloat16 whatever it loads: only a
    tokenizer with `rope = "bfloat16"` computes the same there.
    """
    check_unrounded(tokenizer.precision)
    origin = read_origin(tokenizer.origin)
    config = tokenizer.config
    settings = config_to_published(config)
    was = config_from_published(origin.settings or settings)
    is_unchanged = dataclasses.replace(was, rope=config.rope) == config
    settings, periods = origin.restored(
        settings, _periods(config), is_unchanged=is_unchanged
    )
    if tokenizer.is_measured:
        measured = {name: np.asarray(getattr(tokenizer, name)) for name in STATISTICS}
        settings = settings | {name: a.tolist() for name, a in measured.items()}
    weights = name_table(tokenizer).write(named_arrays(tokenizer))
    return {**weights, **periods}, settings


def tokenizer_outputs(tokenizer: Tokenizer) -> tuple[Arrays, Arrays]:
    """Some inputs, and what comes out of them, in the layout of the published code."""
    size = tokenizer.config.image_size
    images = jr.uniform(jr.key(0), (2, size, size, 3))
    features = jax.vmap(lambda image: tokenizer.features(image)[0])(images)
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = tokenizer.normalize(jax.vmap(tokenizer.decode)(latents))
    inputs = {"pixels": jnp.moveaxis(tokenizer.normalize(images), -1, 1)}
    outputs = {
        "cls": features.cls,
        "patches": features.patches,
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(decoded, -1, 1),
    }
    if tokenizer.config.text is not None:
        text = tokenizer.config.text
        ids = jr.randint(jr.key(1), (3, text.context), 0, text.vocabulary)
        inputs["text"] = ids
        outputs["image embedding"] = jax.vmap(tokenizer.embed_image)(images)
        outputs["text embedding"] = jax.vmap(tokenizer.embed_text)(ids)
    return inputs, outputs


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
    """The rotary precision of a checkpoint, by the values of its periods."""
    for name, exact in _periods(dataclasses.replace(config, rope="float32")).items():
        # By value, for a file of bfloat16 periods may have been saved as float32.
        stored = tensors.get(name)
        if (
            stored is None
            or stored.dtype == ml_dtypes.bfloat16
            or not _same(stored, exact)
        ):
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
