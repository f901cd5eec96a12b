"""The table of names: where each published tensor stands in a tokenizer."""

from collections.abc import Iterable
import dataclasses
from typing import Any

from einops import rearrange
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
import numpy as np

from vtp_eqx.config import TokenizerConfig
from vtp_eqx.tensor_files import as_float32


Tensors = dict[str, np.ndarray]
Pairs = tuple[tuple[str, str], ...]

# Published name and our path. A row whose path leads to nothing in a tokenizer (a norm
# that it lacks, the bias of an RMSNorm) is no row of that tokenizer.


def _weight_and_bias(*pairs: tuple[str, str]) -> Pairs:
    return tuple(
        (f"{published}.{leaf}", f"{path}.{leaf}")
        for published, path in pairs
        for leaf in ("weight", "bias")
    )


_VISION = (
    ("trunk.cls_token", "encoder.cls_token"),
    ("trunk.mask_token", "encoder.mask_token"),
    ("trunk.feature_bottleneck.weight", "bottleneck.weight"),
    *_weight_and_bias(
        ("trunk.patch_embed.proj", "encoder.patch_embed"),
        ("trunk.norm", "encoder.norm"),
        ("pixel_decoder.proj_in", "decoder.embed"),
        ("pixel_decoder.norm", "decoder.norm"),
        ("pixel_decoder.proj_out", "decoder.to_pixels"),
    ),
)
_CONTRAST = (
    ("token_embedding.weight", "text.token_embedding"),
    ("positional_embedding", "text.positions"),
    ("ln_final.weight", "text.norm.weight"),
    ("ln_final.bias", "text.norm.bias"),
    ("text_projection", "text.projection"),
    ("visual_proj.weight", "projection.weight"),
    ("logit_scale", "logit_scale"),
    ("logit_bias", "logit_bias"),
)
_VISION_BLOCK = (
    *_weight_and_bias(
        ("norm1", "attention_norm"),
        ("attn.qkv", "attention.to_qkv"),
        ("attn.q_norm", "attention.query_norm"),
        ("attn.k_norm", "attention.key_norm"),
        ("attn.proj", "attention.to_out"),
        ("norm2", "feed_forward_norm"),
    ),
    ("ls1.gamma", "attention_scale"),
    ("ls2.gamma", "feed_forward_scale"),
)
_MLP = _weight_and_bias(("mlp.fc1", "feed_forward.up"), ("mlp.fc2", "feed_forward.out"))
_SWIGLU = _weight_and_bias(
    ("mlp.w1", "feed_forward.gate"),
    ("mlp.w2", "feed_forward.up"),
    ("mlp.w3", "feed_forward.out"),
)
_TEXT_BLOCK = (
    ("attn.in_proj_weight", "attention.to_qkv.weight"),
    ("attn.in_proj_bias", "attention.to_qkv.bias"),
    *_weight_and_bias(
        ("ln_1", "attention_norm"),
        ("attn.out_proj", "attention.to_out"),
        ("ln_2", "feed_forward_norm"),
        ("mlp.c_fc", "feed_forward.up"),
        ("mlp.c_proj", "feed_forward.out"),
    ),
    ("ls_1.gamma", "attention_scale"),
    ("ls_2.gamma", "feed_forward_scale"),
)
_SAME = ("...", "...")
# Our layout and the published one, where they differ. Inside a patch we have the
# channel fastest, the published code slowest.
_LAYOUTS = {
    "trunk.cls_token": ("d", "1 1 d"),
    "trunk.mask_token": ("d", "1 d"),
    "trunk.patch_embed.proj.weight": ("d (p q c)", "d c p q"),
    "pixel_decoder.proj_in.weight": ("d z", "d z 1 1"),
    "pixel_decoder.proj_out.weight": ("(p q c) d", "(c p q) d 1 1"),
    "pixel_decoder.proj_out.bias": ("(p q c)", "(c p q)"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A published name and where its array stands in a tokenizer.

    Where `depth` is a number the name is one per block, "{}" standing for the block,
    and our array has a leading layer axis.
    """

    name: str
    path: str
    depth: int | None = None

    def published_names(self) -> list[str]:
        """The names of this row's tensors."""
        return [self.name.format(block) for block in range(self.depth or 1)]

    def read(self, tensors: Tensors, patch_size: int) -> Float[Array, "..."]:
        """Our array in float32, out of the published tensors."""
        ours, published = _LAYOUTS.get(self.name, _SAME)
        arrays = [
            _relaid(as_float32(tensors[name], name), published, ours, patch_size)
            for name in self.published_names()
        ]
        return jnp.asarray(arrays[0] if self.depth is None else np.stack(arrays))

    def write(
        self, array: Float[Array, "..."], patch_size: int
    ) -> dict[str, Float[Array, "..."]]:
        """The published tensors, out of our array."""
        ours, published = _LAYOUTS.get(self.name, _SAME)
        arrays = [array] if self.depth is None else list(array)
        return {
            name: _relaid(block, ours, published, patch_size)
            for name, block in zip(self.published_names(), arrays, strict=True)
        }


def rows(tokenizer: PyTree, config: TokenizerConfig) -> list[Row]:
    """The rows that `tokenizer`, or its skeleton of shapes, has arrays for."""
    found = [*_outside(_VISION)]
    for name, path, tower in (
        ("trunk", "encoder", config.encoder),
        ("pixel_decoder", "decoder", config.decoder),
    ):
        pairs = _VISION_BLOCK + (_MLP if tower.feed_forward == "mlp" else _SWIGLU)
        found += _inside(f"{name}.blocks", f"{path}.stack.blocks", pairs, tower.depth)
    if config.text is not None:
        found += _outside(_CONTRAST)
        found += _inside(
            "text_transformer.resblocks",
            "text.stack.blocks",
            _TEXT_BLOCK,
            config.text.depth,
        )
    return [row for row in found if at(tokenizer, row.path) is not None]


def at(tree: PyTree, path: str) -> PyTree:
    """What stands at a dotted path of attributes; `None` where that breaks off."""
    for name in path.split("."):
        tree = getattr(tree, name, None)
    return tree


def _outside(pairs: Pairs) -> Iterable[Row]:
    return (Row(name, path) for name, path in pairs)


def _inside(name: str, path: str, pairs: Pairs, depth: int) -> Iterable[Row]:
    return (
        Row(f"{name}.{{}}.{theirs}", f"{path}.{ours}", depth) for theirs, ours in pairs
    )


def _relaid(array: Any, source: str, target: str, patch_size: int) -> Any:
    inside = dict(p=patch_size, q=patch_size, c=3) if "p" in source else {}
    return rearrange(array, f"{source} -> {target}", **inside)
