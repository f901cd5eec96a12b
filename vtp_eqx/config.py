"""Every value a run depends on, as frozen dataclasses; sizes are named constants.

A comment behind a field says where its default comes from: *paper* (VTP,
arXiv 2512.13687v2), *code* (the published inference code and checkpoints), *DINOv2*,
*OpenCLIP* or *LightningDiT* (the recipes the paper says it follows), or *ours*.
Lengths of sequences are in tokens, sizes of images in pixels.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, get_args, get_type_hints, Literal, TypeVar


Norm = Literal["rmsnorm", "layernorm"]
FeedForward = Literal["swiglu", "mlp"]
Remat = Literal["none", "full", "dots"]
Init = Literal["vtp", "clip"]
Config = TypeVar("Config")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


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

    def __post_init__(self):
        require(
            self.width % self.num_heads == 0,
            "`width` must be a multiple of `num_heads`; got "
            f"{self.width} and {self.num_heads}: change either.",
        )
        require(
            (self.width // self.num_heads) % 4 == 0,
            "The head width must be a multiple of 4, so that rotary positions have two "
            f"axes of pairs; got {self.width // self.num_heads}: change `num_heads`.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Shape of the text tower (a CLIP text transformer)."""

    context: int = 77  # code
    vocabulary: int = 49408  # code: CLIP byte-pair encoding
    width: int = 768  # paper
    depth: int = 12  # paper
    num_heads: int = 12  # paper
    mlp_ratio: float = 4.0  # code
    causal: bool = True  # code
    quick_gelu: bool = False  # code
    layer_scale: float | None = None  # code
    remat: Remat = "none"  # ours

    def __post_init__(self):
        require(
            self.width % self.num_heads == 0,
            "`width` must be a multiple of `num_heads`; got "
            f"{self.width} and {self.num_heads}: change either.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypeConfig:
    """Shape of the prototype (DINO) head, shared by summary and masked patches."""

    num_prototypes: int = 65536  # DINOv2
    hidden_width: int = 2048  # DINOv2
    bottleneck_width: int = 256  # DINOv2
    num_layers: int = 3  # DINOv2
    init_std: float = 0.02  # DINOv2; narrow layers need more, about in_width ** -0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Shape of a tokenizer: encoder, bottleneck, pixel decoder and text tower."""

    encoder: TransformerConfig
    decoder: TransformerConfig
    text: TextConfig | None = None  # `None`: no text tower, no contrast
    image_size: int = 256  # paper; other multiples of the patch size also work
    patch_size: int = 16  # paper
    latent_width: int = 64  # paper
    heads_on: Literal["full", "latent"] = "full"  # code: bottleneck_ae_only = true
    contrast_feature: Literal["cls", "pooled"] = "cls"  # code
    rope: Literal["float32", "bfloat16"] = "float32"  # ours; code rounds to bfloat16
    logit_scale: float = 2.6592600  # OpenCLIP: ln(1 / 0.07)
    logit_bias: float | None = None  # code: none; SigLIP starts at -10
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN  # code
    pixel_std: tuple[float, float, float] = IMAGENET_STD  # code

    def __post_init__(self):
        require(
            self.image_size % self.patch_size == 0,
            "`image_size` must be a multiple of `patch_size`; got "
            f"{self.image_size} and {self.patch_size}: change either.",
        )

    @property
    def head_width(self) -> int:
        """Width of the features that contrast and distillation read."""
        return self.encoder.width if self.heads_on == "full" else self.latent_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Crops and colours of the distillation views (DINOv2) and the contrastive crop."""

    global_size: int = 256  # ours: fits the paper's FLOPs better than 224
    local_size: int = 96  # DINOv2
    num_local: int = 8  # DINOv2
    global_scale: tuple[float, float] = (0.32, 1.0)  # DINOv2
    local_scale: tuple[float, float] = (0.05, 0.32)  # DINOv2
    contrast_scale: tuple[float, float] = (0.9, 1.0)  # OpenCLIP
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # torchvision
    flip_rate: float = 0.5  # DINOv2; 0 where captions name left and right
    jitter_rate: float = 0.8  # DINOv2
    brightness: float = 0.4  # DINOv2
    contrast: float = 0.4  # DINOv2
    saturation: float = 0.2  # DINOv2
    hue: float = 0.1  # DINOv2, in turns
    gray_rate: float = 0.2  # DINOv2
    # DINOv2 as trained: its code inverts the intended rates (1.0, 0.1, 0.5).
    blur_rates: tuple[float, float, float] = (0.0, 0.9, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # DINOv2, in pixels
    blur_radius: int = 4  # DINOv2: a 9 x 9 kernel
    solarize_rate: float = 0.2  # DINOv2, second global crop only
    mask_rate: float = 0.5  # DINOv2: share of global crops with hidden patches
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # DINOv2: hidden share of those


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Temperatures and weights of self-distillation (DINO, iBOT, KoLeo)."""

    student_temperature: float = 0.1  # DINOv2
    teacher_temperature: tuple[float, float] = (0.04, 0.07)  # DINOv2: start, end
    teacher_warmup: float = 0.3  # DINOv2: share of the run
    sinkhorn_iterations: int = 3  # DINOv2
    koleo_weight: float = 0.1  # DINOv2
    masked_weight: float = 1.0  # DINOv2: of iBOT beside DINO
    momentum: tuple[float, float] = (0.992, 1.0)  # DINOv2: cosine over the run


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Weights of the pixel terms, all in normalised pixel space."""

    l1_weight: float = 1.0  # paper
    pooled_weight: float = 0.0  # ours: L1 of 2x2 and 4x4 pooled images
    gradient_weight: float = 0.0  # ours: L1 of differences of neighbouring pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its schedule and its masks. Rates are per step."""

    learning_rate: float = 1e-3  # ours, for a contrastive batch of 16k
    warmup_steps: int = 2000  # ours
    final_rate: float = 0.0  # OpenCLIP: cosine to zero, as a share of the peak
    schedule: Literal["cosine", "constant"] = "cosine"  # OpenCLIP
    b1: float = 0.9  # OpenCLIP
    b2: float = 0.98  # OpenCLIP
    eps: float = 1e-6  # OpenCLIP
    weight_decay: float = 0.05  # ours
    clip_norm: float | None = 1.0  # ours, global norm
    patch_rate: float = 1.0  # DINOv2 0.2: learning-rate share of the patch embedding
    freeze_prototypes: int = 0  # DINOv2 1250 steps: no update of the last layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One tokenizer pre-training: what is learned, from how much, how."""

    tokenizer: TokenizerConfig
    prototypes: PrototypeConfig | None = None  # `None`: no self-distillation
    views: ViewsConfig = ViewsConfig()
    distillation: DistillationConfig = DistillationConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    # Weights of the three objectives (paper); a weight of 0 leaves the term out.
    contrast_weight: float = 1.0
    distillation_weight: float = 1.0
    reconstruction_weight: float = 0.1
    weighting: Literal["fixed", "learned"] = "fixed"  # paper; learned is ours
    contrast: Literal["clip", "siglip"] = "clip"  # paper
    batch_size: int = 16384  # paper: contrastive batch
    distillation_batch: int = 4096  # paper: random subset of it
    reconstruction_batch: int = 2048  # paper: random subset of it
    contrast_drop: float = 0.0  # ours: stochastic-depth rates, one an objective
    distillation_drop: float = 0.1  # ours
    reconstruction_drop: float = 0.0  # ours
    pca_start: bool = False  # ours: start from linear reconstruction (small runs)
    num_steps: int = 67000  # ours: about 1.1e9 samples at 16k
    seed: int = 0

    def __post_init__(self):
        for name, size, weight in (
            ("distillation_batch", self.distillation_batch, self.distillation_weight),
            (
                "reconstruction_batch",
                self.reconstruction_batch,
                self.reconstruction_weight,
            ),
        ):
            divides = 0 < size <= self.batch_size and self.batch_size % size == 0
            require(
                weight == 0 or divides,
                f"`{name}` must divide `batch_size`, because its images are a "
                f"stratified subset of that batch; got {size} and {self.batch_size}: "
                "change either.",
            )
        require(
            self.contrast_weight == 0 or self.tokenizer.text is not None,
            "Contrast needs a text tower, but `tokenizer.text` is None: "
            "set it, or set `contrast_weight` to 0.",
        )
        uses_siglip = self.contrast_weight > 0 and self.contrast == "siglip"
        require(
            not uses_siglip or self.tokenizer.logit_bias is not None,
            "The SigLIP loss needs a bias, but `tokenizer.logit_bias` is None: set it; "
            "the paper starts at -10.",
        )
        require(
            self.distillation_weight == 0 or self.prototypes is not None,
            "Self-distillation needs a prototype head, but `prototypes` is None: "
            "set it, or set `distillation_weight` to 0.",
        )


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
    label_drop_rate: float = 0.1  # LightningDiT
    qk_norm: bool = False  # code
    rmsnorm: bool = True  # code
    rope: bool = True  # code
    swiglu: bool = True  # code
    shift: bool = True  # code: wo_shift = false
    mlp_ratio: float = 4.0  # LightningDiT
    remat: Remat = "none"  # ours

    def __post_init__(self):
        require(
            self.width % self.num_heads == 0,
            "`width` must be a multiple of `num_heads`; got "
            f"{self.width} and {self.num_heads}: change either.",
        )
        require(
            self.latent_size % self.patch_size == 0,
            "`latent_size` must be a multiple of `patch_size`; got "
            f"{self.latent_size} and {self.patch_size}: change either.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """One training of a diffusion transformer on a tokenizer's latents."""

    dit: DiTConfig
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-4,  # LightningDiT, constant
        warmup_steps=0,
        schedule="constant",
        b2=0.95,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=None,
    )
    time_mean: float = -0.5  # code: VTP-S and VTP-B; VTP-L has -0.75
    time_std: float = 1.25  # code: VTP-S and VTP-B; VTP-L has 1.0
    cosine_weight: float = 1.0  # LightningDiT
    ema_decay: float = 0.9999  # LightningDiT
    batch_size: int = 1024  # LightningDiT
    num_steps: int = 100_000  # LightningDiT: 80 epochs of ImageNet
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How samples are drawn; every field goes onto the evaluation card."""

    solver: Literal["euler", "heun"] = "euler"  # code
    num_steps: int = 249  # code: 250 grid points
    time_shift: float = 0.075  # code; 0 or 1 leaves the grid uniform
    guidance: float = 1.0  # code: none
    guidance_start: float = 0.0  # LightningDiT: no guidance where t is below
    guided_channels: int | None = None  # LightningDiT 3; `None` guides all


# The published sizes (paper section 6; checkpoints). Decoders mirror their encoders.
VIT_S = TransformerConfig(width=384, depth=12, num_heads=6)
VIT_B = TransformerConfig(width=768, depth=12, num_heads=12)
VIT_L = TransformerConfig(width=1024, depth=24, num_heads=16)
# The paper's ablations decode with four layers of ViT-L.
DECODER_L4 = TransformerConfig(width=1024, depth=4, num_heads=16, norm="layernorm")
# Ours, for laptops: widths in steps of about 1.5, two heads or more.
VIT_FEMTO = TransformerConfig(width=48, depth=2, num_heads=2)
VIT_PICO = TransformerConfig(width=96, depth=3, num_heads=2)
VIT_NANO = TransformerConfig(width=144, depth=4, num_heads=3)
VIT_TINY = TransformerConfig(width=192, depth=4, num_heads=3)

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


def as_json(config: Any) -> str:
    """A config as JSON text, the same text for equal configs."""
    return json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True)


def short_hash(config: Any) -> str:
    """Twelve hexadecimal digits that name a config by its content."""
    return hashlib.sha256(as_json(config).encode()).hexdigest()[:12]


def from_dict(kind: type[Config], fields: Mapping[str, Any]) -> Config:
    """The config of class `kind` whose `as_json` was parsed into `fields`.

    Fields that are missing keep their defaults; unknown ones raise `ValueError`.
    """
    hints = get_type_hints(kind)
    unknown = sorted(fields.keys() - hints.keys())
    require(
        not unknown,
        f"A {kind.__name__} has the fields {sorted(hints)}; got {unknown}: "
        "remove them, or use the version that wrote them.",
    )
    return kind(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    """`value` from JSON as its type hint has it: nested configs, tuples for lists."""
    if isinstance(value, Mapping):
        kinds: list[Any] = [
            kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)
        ]
        return from_dict(kinds[0], value) if kinds else dict(value)
    return tuple(value) if isinstance(value, list) else value


def tokenizer_from_dict(fields: Mapping[str, Any]) -> TokenizerConfig:
    """The tokenizer config whose `as_json` was parsed into `fields`."""
    return from_dict(TokenizerConfig, fields)
