"""Small tokenizers of every kind that a config can express, random in every array."""

import dataclasses

import equinox as eqx
import jax.random as jr
import numpy as np

from vtp_eqx.config import (
    decoder_like,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.tokenizer import Tokenizer


_TOWER = TransformerConfig(width=32, depth=2, num_heads=2)
_TEXT = TextConfig(context=4, vocabulary=9, width=8, depth=1, num_heads=2)
CONFIGS = {
    # As the published checkpoints are: SwiGLU, bfloat16 positions, a text tower.
    "published": TokenizerConfig(
        encoder=_TOWER, decoder=decoder_like(_TOWER), text=_TEXT, image_size=32,
        latent_width=8, rope="bfloat16",
    ),
    "float32": TokenizerConfig(
        encoder=_TOWER, decoder=decoder_like(_TOWER), image_size=32, latent_width=8
    ),
    "guarded": TokenizerConfig(
        encoder=_TOWER, decoder=decoder_like(_TOWER), image_size=32, latent_width=8,
        latent_norm="rms",
    ),
    # All that may differ differs, and from tower to tower.
    "mixed": TokenizerConfig(
        encoder=TransformerConfig(
            width=36, depth=1, num_heads=3, norm="layernorm", feed_forward="mlp",
            mlp_ratio=2.5, qk_norm=True, layer_scale=0.5,
        ),
        decoder=TransformerConfig(
            width=16, depth=3, num_heads=4, feed_forward="swiglu32", mlp_ratio=3.0
        ),
        text=dataclasses.replace(_TEXT, layer_scale=0.1), image_size=24, patch_size=4,
        latent_width=5, logit_bias=-10.0, heads_input="latent",
        pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.5, 0.6, 0.7),
    ),
    # A bottleneck as wide as its encoder, and positions whose exponents are rounded.
    "wide": TokenizerConfig(
        encoder=TransformerConfig(width=24, depth=2, num_heads=1, layer_scale=1e-5),
        decoder=TransformerConfig(
            width=24, depth=1, num_heads=2, feed_forward="mlp", qk_norm=True
        ),
        image_size=16, patch_size=8, latent_width=24, rope="bfloat16",
        contrast_feature="pooled",
    ),
}  # fmt: skip


def random_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a config, with measured statistics.

    First tokens are small, so that the constant in a norm is seen, and the rest large
    enough that attention is not the same everywhere.
    """
    skeleton = eqx.filter_eval_shape(Tokenizer, CONFIGS[name], key=jr.key(0))
    draw, arrays = np.random.default_rng(0), {}
    for path, leaf in named_arrays(skeleton).items():
        values = 0.4 * draw.normal(size=leaf.shape)
        if "norm" in path:
            values = 1 + values
        elif "embed" in path or "token" in path:
            values = 0.02 * values
        arrays[path] = values.astype(np.float32)
    drawn = with_arrays(skeleton, arrays)
    return drawn.with_statistics(drawn.latent_mean, abs(drawn.latent_std))
