"""Configs of the trainings of tokenizers: data, losses, optimizer.

The comment after a field says where its default comes from: see `vtp_eqx.config`.
"""

import dataclasses
from typing import Literal

from vtp_eqx.config.alignment import (
    AlignmentConfig,
    check_alignment,
    check_flow_distillation,
    FlowDistillationConfig,
)
from vtp_eqx.config.checks import require, require_fields, require_rising
from vtp_eqx.config.controls import (
    check_controls,
    check_noise,
    ControlsConfig,
    NoiseLaw,
)
from vtp_eqx.config.fields import later
from vtp_eqx.config.shapes import (
    Precision,
    PrototypeConfig,
    Sharding,
    TokenizerConfig,
    TransformerConfig,
)


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

    def __post_init__(self):
        require_fields(self, "1 or more", "global_size", "local_size")
        require_fields(
            self, "0 or more", "num_local", "brightness", "contrast", "saturation",
            "hue", "blur_radius",
        )  # fmt: skip
        require_fields(
            self, "positive", "global_scale", "local_scale", "contrast_scale",
            "aspect", "blur_sigma",
        )  # fmt: skip
        require_fields(
            self, "in [0, 1]", "global_scale", "local_scale", "contrast_scale",
            "flip_rate", "jitter_rate", "gray_rate", "blur_rates", "solarize_rate",
            "mask_rate", "mask_ratio",
        )  # fmt: skip
        require_rising(
            self, "global_scale", "local_scale", "contrast_scale", "aspect",
            "blur_sigma", "mask_ratio",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Temperatures and weights of self-distillation (DINO, iBOT, KoLeo)."""

    student_temperature: float = 0.1  # DINOv2
    teacher_temperature: tuple[float, float] = (0.04, 0.07)  # DINOv2: start, end
    teacher_warmup: float = 0.3  # DINOv2: share of the run
    sinkhorn_iterations: int = 3  # DINOv2
    koleo_weight: float = 0.1  # DINOv2
    # DINOv2: those of one device, 32 to 64. Images among which KoLeo looks for
    # neighbors, in the order of the batch; `None`: all, whose neighbors are nearer.
    koleo_group: int | None = later(None)
    masked_weight: float = 1.0  # DINOv2: of iBOT beside DINO
    momentum: tuple[float, float] = (0.992, 1.0)  # DINOv2: cosine over the run

    def __post_init__(self):
        require_fields(self, "positive", "student_temperature", "teacher_temperature")
        require_fields(self, "0 or more", "koleo_weight", "masked_weight")
        require_fields(self, "1 or more", "sinkhorn_iterations")
        require_fields(self, "in [0, 1]", "teacher_warmup", "momentum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Weights of the pixel terms, all in normalised pixel space."""

    l1_weight: float = 1.0  # paper
    pooled_weight: float = 0.0  # ours: L1 of 2x2 and 4x4 pooled images
    gradient_weight: float = 0.0  # ours: L1 of differences of neighbouring pixels
    # Paper 1: of LPIPS. Ours 0, because it takes the published weights of its network.
    perceptual_weight: float = later(0.0)

    def __post_init__(self):
        require_fields(
            self, "0 or more", "l1_weight", "pooled_weight", "gradient_weight",
            "perceptual_weight",
        )  # fmt: skip

    @property
    def uses_perceptual(self) -> bool:
        """Whether LPIPS is learned from, so that its network is needed."""
        return self.perceptual_weight > 0


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
    # DINOv2 0.4: along a cosine to the end of the run; `None`: `weight_decay` stays.
    final_weight_decay: float | None = later(None)
    clip_norm: float | None = 1.0  # ours; DINOv2 3.0
    # Ours: the norm of the whole gradient. DINOv2: of each network's by itself, so that
    # one that spikes does not hold up the others.
    clip_by: Literal["all", "network"] = later("all")
    patch_rate: float = 1.0  # DINOv2 0.2: learning-rate share of the patch embedding
    freeze_prototypes: int = 0  # DINOv2 1250 steps: no update of the last layer
    # Ours: skips a step whose gradient is so many times as long as the typical one.
    spike_factor: float | None = later(None)

    def __post_init__(self):
        require_fields(
            self, "0 or more", "learning_rate", "warmup_steps", "final_rate", "eps",
            "weight_decay", "final_weight_decay", "patch_rate", "freeze_prototypes",
        )  # fmt: skip
        require_fields(self, "positive", "clip_norm", "spike_factor")
        require_fields(self, "in [0, 1)", "b1", "b2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One tokenizer pre-training: what is learned, from how much, how."""

    tokenizer: TokenizerConfig
    prototypes: PrototypeConfig | None = None  # `None`: no self-distillation
    views: ViewsConfig = ViewsConfig()
    distillation: DistillationConfig = DistillationConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    alignment: AlignmentConfig = later(AlignmentConfig())
    flow_distillation: FlowDistillationConfig = later(FlowDistillationConfig())
    optimizer: OptimizerConfig = OptimizerConfig()
    # Weights of the three objectives (paper); a weight of 0 leaves the term out.
    contrast_weight: float = 1.0
    distillation_weight: float = 1.0
    reconstruction_weight: float = 0.1
    # Ours, both off: what else makes latents good to generate on, as controls.
    smoothness_weight: float = 0.0  # of latents that differ from their neighbors
    latent_noise: float = 0.0  # on what is decoded, in deviations of a channel
    # Ours, off. VA-VAE: 0.1 (first 0.5), with the `alignment.weighting` "adaptive".
    alignment_weight: float = later(0.0)
    controls: ControlsConfig = later(ControlsConfig())
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
    # Ours: how a step fits onto its devices. Numbers depend on it by rounding alone,
    # but for stochastic depth, which draws its subsets from the rows of one microbatch:
    # `accumulate` and the number of devices choose which.
    precision: Precision = later("float32")  # networks compute in it; "bfloat16": GPUs
    accumulate: int = later(1)  # microbatches that a device splits its rows into
    sharding: Sharding = later("none")  # "zero": optimizer, teacher; "fsdp": all
    # Ours: every so many steps one is computed twice and compared bit for bit, against
    # silent corruption by hardware. It takes twice as long, and memory for a second
    # state; 0: never.
    recompute_every: int = later(0)
    seed: int = 0

    @property
    def term_weights(self) -> dict[str, float]:
        """The weight of each loss term, without those whose weight is 0."""
        weights = {
            "contrast": self.contrast_weight,
            "distillation": self.distillation_weight,
            "reconstruction": self.reconstruction_weight,
            "smoothness": self.smoothness_weight,
            "alignment": self.alignment_weight,
            "flow_distillation": self.flow_distillation.weight,
            **self.controls.term_weights,
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def vision_widths(self) -> dict[str, int]:
        """The width of a frozen network's features, by the config of each term that
        learns from one; without any, no such network is needed."""
        flow, widths = self.flow_distillation, {}
        if self.alignment_weight > 0:
            widths["alignment"] = self.alignment.width
        if flow.weight > 0 and flow.target == "frozen":
            widths["flow_distillation"] = flow.width
        return widths

    def __post_init__(self):
        require_fields(
            self, "0 or more", "contrast_weight", "distillation_weight",
            "reconstruction_weight", "smoothness_weight", "alignment_weight",
            "latent_noise", "num_steps",
        )  # fmt: skip
        require_fields(self, "1 or more", "batch_size", "accumulate")
        require_fields(
            self, "in [0, 1)", "contrast_drop", "distillation_drop",
            "reconstruction_drop",
        )  # fmt: skip
        terms = self.term_weights
        for name, size, users in (
            ("distillation_batch", self.distillation_batch, ("distillation",)),
            (
                "reconstruction_batch",
                self.reconstruction_batch,
                ("reconstruction", "alignment", "flow_distillation"),
            ),
        ):
            divides = 0 < size <= self.batch_size and self.batch_size % size == 0
            require(
                divides or not terms.keys() & {*users},
                f"`{name}` must divide `batch_size`, because its images are a "
                f"stratified subset of that batch; got {size} and {self.batch_size}: "
                "change either.",
            )
        require(
            "contrast" not in terms or self.tokenizer.text is not None,
            "Contrast needs a text tower, but `tokenizer.text` is None: "
            "set it, or set `contrast_weight` to 0.",
        )
        for name in ("global_size", "local_size"):
            size, patch = getattr(self.views, name), self.tokenizer.patch_size
            require(
                "distillation" not in terms or size % patch == 0,
                f"`views.{name}` ({size}) must be a multiple of `tokenizer.patch_size` "
                f"({patch}): change either.",
            )
        group = self.distillation.koleo_group
        require(
            "distillation" not in terms
            or group is None
            or (group > 1 and self.distillation_batch % group == 0),
            f"`distillation.koleo_group` ({group}) must be 2 or more and divide "
            f"`distillation_batch` ({self.distillation_batch}): change either.",
        )
        uses_siglip = "contrast" in terms and self.contrast == "siglip"
        require(
            not uses_siglip or self.tokenizer.logit_bias is not None,
            "The SigLIP loss needs a bias, but `tokenizer.logit_bias` is None: set it; "
            "the paper starts at -10.",
        )
        require(
            "distillation" not in terms or self.prototypes is not None,
            "Self-distillation needs a prototype head, but `prototypes` is None: "
            "set it, or set `distillation_weight` to 0.",
        )
        check_controls(
            self.controls, terms, self.tokenizer, latent_noise=self.latent_noise,
            accumulate=self.accumulate,
        )  # fmt: skip
        check_alignment(self.alignment, terms, self.weighting)
        check_flow_distillation(
            self.flow_distillation, terms, self.controls.noise_law,
            self.tokenizer.encoder.width,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """A pixel decoder trained anew on the latents of a tokenizer that stays as it is.

    All values are ours, but for the pixel loss. The same stage after every method
    takes jointly trained decoders out of a comparison.
    """

    decoder: TransformerConfig
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    latent_noise: float = 0.0  # in deviations of a channel; RAE: 0.8 of normed features
    noise_law: NoiseLaw = later("fixed")  # RAE: "uniform"
    linear_start: bool = True  # from least squares, as `pca_start`
    ema_decay: float = 0.999
    batch_size: int = 256
    num_steps: int = 10_000
    # How a step fits onto its devices; numbers do not depend on it, but for rounding.
    precision: Precision = later("float32")  # networks compute in it; "bfloat16": GPUs
    accumulate: int = later(1)  # microbatches that a device splits its rows into
    sharding: Sharding = later("none")  # "zero": optimizer, teacher; "fsdp": all
    recompute_every: int = later(0)  # as in `PretrainConfig`
    seed: int = 0

    def __post_init__(self):
        require_fields(self, "0 or more", "latent_noise", "num_steps")
        require_fields(self, "1 or more", "batch_size", "accumulate")
        require_fields(self, "in [0, 1]", "ema_decay")
        check_noise("noise_law", self.noise_law, self.latent_noise)
