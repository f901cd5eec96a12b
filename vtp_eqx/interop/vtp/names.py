"""The table of names: where each published tensor stands in a tokenizer."""

from vtp_eqx.config import TokenizerConfig
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.tensor_files.name_table import (
    in_blocks,
    Layout,
    Names,
    NameTable,
    patch_layout,
)


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
_VISION_BLOCK: Names = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.to_qkv",
    "attn.q_norm": "attention.query_norm",
    "attn.k_norm": "attention.key_norm",
    "attn.proj": "attention.to_out",
    "ls1.gamma": "attention_scale",
    "norm2": "feed_forward_norm",
    "ls2.gamma": "feed_forward_scale",
}
_MLP: Names = {"mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.out"}
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
        block = {**_VISION_BLOCK, **(_MLP if tower.feed_forward == "mlp" else _SWIGLU)}
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
