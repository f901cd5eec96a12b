"""The sizes that have names: the published ones, and ours for laptops."""

import dataclasses
from typing import Any

from vtp_eqx.config.shapes import (
    DiTConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


# The published sizes (paper section 6; checkpoints). Decoders mirror their encoders.
VIT_S = TransformerConfig(width=384, depth=12, num_heads=6)
VIT_B = TransformerConfig(width=768, depth=12, num_heads=12)
VIT_L = TransformerConfig(width=1024, depth=24, num_heads=16)
# The paper's ablations decode with four layers of ViT-L.
DECODER_L4 = TransformerConfig(width=1024, depth=4, num_heads=16, norm="layernorm")
# Ours, for a look on a laptop.
VIT_FEMTO = TransformerConfig(width=48, depth=2, num_heads=2)

DIT_S = DiTConfig(width=384, depth=12, num_heads=6)  # DiT's; LightningDiT has none
DIT_B = DiTConfig(width=768, depth=12, num_heads=12)
DIT_XL = DiTConfig(width=1152, depth=28, num_heads=16)
DIT_1B = DiTConfig(width=1536, depth=24, num_heads=24)


def decoder_like(encoder: TransformerConfig) -> TransformerConfig:
    """The symmetric pixel decoder of an encoder: same shape, LayerNorm (code)."""
    return dataclasses.replace(encoder, norm="layernorm")


def published(encoder: TransformerConfig, **changes: Any) -> TokenizerConfig:
    """A tokenizer laid out as the released checkpoints, with `changes` on top."""
    parts = dict(encoder=encoder, decoder=decoder_like(encoder), text=TextConfig())
    return TokenizerConfig(**{**parts, "rope": "bfloat16", **changes})


VTP_S = published(VIT_S)
VTP_B = published(VIT_B)
VTP_L = published(VIT_L)
