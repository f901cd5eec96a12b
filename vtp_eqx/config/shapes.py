"""The shapes of networks, and the sizes that have names.

The comment after a field says where its default comes from: see `vtp_eqx.config`.
"""

import dataclasses
import reprlib
from typing import Any, Literal

from vtp_eqx.config.checks import require, require_fields
from vtp_eqx.config.fields import later


Norm = Literal["rmsnorm", "layernorm"]
# The hidden width of SwiGLU is a multiple of the number in its name, or of 8.
FeedForward = Literal["swiglu", "swiglu32", "swiglu64", "swiglu128", "mlp"]
Remat = Literal["none", "full", "dots"]
Init = Literal["vtp", "clip"]
Precision = Literal["float32", "bfloat16"]
Sharding = Literal["none", "zero", "fsdp"]
Attention = Literal["plain", "fused"]
Residual = Literal["as computed", "float32"]
LatentNorm = Literal["none", "rms"]
Readout = Literal["mean", "ends"]

CLIP_VOCABULARY = 49408  # tokens of CLIP's byte-pair encoding
# More is no size of a network, but a way to fill memory. Ours.
LARGEST_SIZE = 1_000_000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of one vision transformer (encoder or pixel decoder)."""

    width: int
    depth: int
    num_heads: int
    norm: Norm = "rmsnorm"  # code: the encoder's; the decoder has "layernorm"
    feed_forward: FeedForward = "swiglu"  # code
    mlp_ratio: float = 4.0  # code; nominal, SwiGLU takes two thirds of it
    qk_norm: bool = False  # paper: on; released checkpoints: off
    layer_scale: float | None = None  # code: none; DINOv2 trains with 1e-5
    # code: N(0, 0.02^2), which suits widths of about 1000; narrow blocks start almost
    # linear with it, and learn earlier from CLIP's, whose deviation is width ** -0.5.
    init: Init = "vtp"
    remat: Remat = "none"  # ours: what a block keeps for its backward pass
    # Ours: "fused" takes cuDNN's kernel where a network computes in bfloat16, which
    # then needs an NVIDIA GPU; in float32 it is the plain one.
    attention: Attention = later("plain")
    # Ours: "float32" keeps the sum of what blocks add in float32 where they compute in
    # bfloat16, whose 8 bits lose what the last of many add. Twice that sum's memory.
    residual: Residual = later("as computed")

    def __post_init__(self):
        _require_sizes(self)
        _require_multiple(self, "width", "num_heads")
        _require_head_width(self.width, self.num_heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of the text tower (a CLIP text transformer)."""

    context: int = 77  # code
    vocabulary: int = CLIP_VOCABULARY  # code
    # Code: CLIP's byte pairs. Ours: those "learned" from the captions of a run. "auto"
    # is CLIP's where `vocabulary` has its size, and else learned.
    tokenizer: Literal["auto", "clip", "learned"] = later("auto")
    width: int = 768  # paper
    depth: int = 12  # paper
    num_heads: int = 12  # paper
    mlp_ratio: float = 4.0  # code
    causal: bool = True  # code
    quick_gelu: bool = False  # code
    layer_scale: float | None = None  # code
    remat: Remat = "none"  # ours

    def __post_init__(self):
        _require_sizes(self)
        _require_multiple(self, "width", "num_heads")
        require(
            self.tokenizer != "clip" or self.vocabulary >= CLIP_VOCABULARY,
            f"`vocabulary` ({self.vocabulary}) must hold the {CLIP_VOCABULARY} tokens "
            "of the `tokenizer` 'clip': raise it, or take 'learned'.",
        )

    @property
    def uses_clip(self) -> bool:
        """Whether texts are encoded with CLIP's byte pairs, not with learned ones."""
        if self.tokenizer == "auto":
            return self.vocabulary == CLIP_VOCABULARY
        return self.tokenizer == "clip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypeConfig:
    """Shape of the prototype (DINO) head, shared by class token and masked patches."""

    num_prototypes: int = 65536  # DINOv2
    hidden_width: int = 2048  # DINOv2
    bottleneck_width: int = 256  # DINOv2
    num_layers: int = 3  # DINOv2
    init_std: float = 0.02  # DINOv2; narrow layers need more, about in_width ** -0.5

    def __post_init__(self):
        _require_sizes(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Shape of a tokenizer: encoder, bottleneck, pixel decoder and text tower."""

    encoder: TransformerConfig
    decoder: TransformerConfig
    text: TextConfig | None = None  # `None`: no text tower, no contrast
    image_size: int = 256  # paper; other multiples of the patch size also work
    patch_size: int = 16  # paper
    latent_width: int = 64  # paper
    # Code: none. PAE: "rms" divides each latent vector by its root mean square, which
    # guards its scale: noise cannot be evaded by growing.
    latent_norm: LatentNorm = later("none")
    # Code: 1, the features after the last block. RAEv2: more, whose mean the bottleneck
    # reads, each after the final norm (its paper has the sum).
    readout_layers: int = later(1)
    # RAEv2: their "mean". DINO-Tok: of the "ends", the first of them and the last, the
    # features beside one another, so that a bottleneck twice as wide reads shallow and
    # deep ones.
    readout: Readout = later("mean")
    heads_input: Literal["full", "latent"] = "full"  # code: bottleneck_ae_only = true
    contrast_feature: Literal["cls", "pooled"] = "cls"  # code
    # code: N(0, 0.02^2), which suits widths of about 1000. Ours: random orthogonal maps
    # into the latents and out of them; narrow networks then reach the reconstruction of
    # principal components in a few thousand steps.
    latent_init: Literal["normal", "orthogonal"] = later("normal")
    rope: Precision = "float32"  # ours; code rounds to bfloat16
    logit_scale: float = 2.6592600  # OpenCLIP: ln(1 / 0.07)
    logit_bias: float | None = None  # code: none; SigLIP starts at -10
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN  # code
    pixel_std: tuple[float, float, float] = IMAGENET_STD  # code

    def __post_init__(self):
        _require_sizes(self)
        _require_multiple(self, "image_size", "patch_size")
        require(
            self.readout_layers <= max(self.encoder.depth, 1),
            f"`readout_layers` ({self.readout_layers}) must not exceed the encoder's "
            f"`depth` ({self.encoder.depth}): lower it.",
        )
        require(
            self.readout == "mean" or self.readout_layers > 1,
            "`readout` ('ends') takes the first and the last of several blocks, but "
            f"`readout_layers` is {self.readout_layers}: raise it, or take 'mean'.",
        )

    @property
    def readout_width(self) -> int:
        """Width of the features that the bottleneck reads."""
        return self.encoder.width * (2 if self.readout == "ends" else 1)

    @property
    def head_width(self) -> int:
        """Width of the features that contrast and distillation read."""
        return self.encoder.width if self.heads_input == "full" else self.latent_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a LightningDiT; defaults are the flags of the VTP experiments."""

    width: int
    depth: int
    num_heads: int
    latent_width: int = 64  # paper
    latent_size: int = 16  # paper: side of the square latent grid
    patch_size: int = 1  # paper
    num_classes: int = 1000  # paper; class `num_classes` is the null class
    label_drop_rate: float = 0.1  # LightningDiT; of captions as well
    qk_norm: bool = False  # code
    rmsnorm: bool = True  # code
    rope: bool = True  # code
    swiglu: bool = True  # code
    shift: bool = True  # code: wo_shift = false
    mlp_ratio: float = 4.0  # LightningDiT
    remat: Remat = "none"  # ours
    attention: Attention = later("plain")  # ours: as in `TransformerConfig`
    # Ours: queries and keys are normalized, turned and multiplied in float32, whatever
    # the rest computes in; beside `qk_norm`, what helps where bfloat16 ends in NaN.
    float32_logits: bool = later(False)
    # LightningDiT: "float32", as autocast rounds what a layer adds, and not the sum. As
    # in `TransformerConfig`.
    residual: Residual = later("as computed")
    # Ours; published is "label". "text": captions, as the text tower of the tokenizer
    # reads them, are tokens before those of the latent. The next two are that tower's.
    condition: Literal["label", "text"] = later("label")
    text_context: int = later(77)
    text_width: int = later(768)

    def __post_init__(self):
        _require_sizes(self)
        _require_multiple(self, "width", "num_heads")
        _require_multiple(self, "latent_size", "patch_size")
        _require_head_width(self.width, self.num_heads)
        require_fields(self, "in [0, 1]", "label_drop_rate")
        require(
            not (self.float32_logits and self.attention == "fused"),
            "`float32_logits` (True) needs `attention` 'plain', because the fused "
            "kernel takes bfloat16 alone: change either.",
        )


def _require_sizes(config: object) -> None:
    """A `ValueError` where a field counts nothing or too much, or is not finite."""
    for field in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, field.name)
        if type(value) is int and field.type in (int, "int"):
            least = 0 if field.name == "depth" else 1  # a network may have no blocks
            require(
                least <= value <= LARGEST_SIZE,
                f"`{field.name}` ({reprlib.repr(value)}) must be from {least} to "
                f"{LARGEST_SIZE}: correct it.",
            )
        for number in value if isinstance(value, tuple) else (value,):
            require(
                not isinstance(number, float | int) or abs(number) <= LARGEST_SIZE,
                f"`{field.name}` ({reprlib.repr(number)}) must be finite, and "
                f"{LARGEST_SIZE} at most: correct it.",
            )


def _require_head_width(width: int, num_heads: int) -> None:
    require(
        (width // num_heads) % 4 == 0,
        "The head width must be a multiple of 4, so that rotary positions have two "
        f"axes of pairs; got {width // num_heads}: change `num_heads`.",
    )


def _require_multiple(config: object, name: str, of: str) -> None:
    value, unit = getattr(config, name), getattr(config, of)
    require(
        value % unit == 0,
        f"`{name}` must be a multiple of `{of}`; got {value} and {unit}: change "
        "either.",
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
