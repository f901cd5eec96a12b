"""Configs of latents on disk, of a generator's training and of sampling.

The comment after a field says where its default comes from: see `vtp_eqx.config`.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Literal

from vtp_eqx.config.checks import require, require_fields, require_rising
from vtp_eqx.config.fields import later
from vtp_eqx.config.runs import OptimizerConfig
from vtp_eqx.config.shapes import DiTConfig, Precision, Sharding


LIGHTNINGDIT = OptimizerConfig(
    learning_rate=2e-4,  # LightningDiT, constant
    warmup_steps=0,
    schedule="constant",
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=None,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Which views of each image are encoded, and how their latents are stored."""

    # LightningDiT: the middle of an image, and its mirror image. Ours: "augmented" has
    # random crops beside the middle.
    views: Literal["original", "flip", "augmented"] = "flip"
    num_augmented: int = 4  # ours: random crops of an image, where views are augmented
    augmented_scale: tuple[float, float] = (0.8, 1.0)  # ours: their share of the area
    # LightningDiT's; "uint8" has a scale a channel.
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    # Ours; the other is what LightningDiT's loader reads.
    layout: Literal["npy", "lightningdit"] = "npy"
    shard_images: int = 2048  # ours: images of a shard, and what a kill may cost
    limit: int | None = None  # ours: so many images, evenly spread; `None`: all
    # Ours: the ids of each image's caption beside its latents, for generators of text.
    # Where captions name left and right, mirror images contradict them: see `views`.
    captions: bool = later(False)
    # Generators learn on latents that are divided by each channel's own deviation, as
    # LightningDiT's are, or (`True`) by one for all channels, as latent diffusion's. In
    # our studies the latter is better for wide latents; see docs/results/conclusion.md.
    one_scaling_factor: bool = later(False)
    seed: int = 0  # of random crops

    def __post_init__(self):
        require(
            self.layout == "npy" or (self.views == "flip" and self.dtype != "uint8"),
            "`layout` ('lightningdit') holds each image and its mirror image in "
            f"float32 or float16; got `views` {self.views!r} and `dtype` "
            f"{self.dtype!r}: change them, or take the layout 'npy'.",
        )
        require(
            self.layout == "npy" or not self.captions,
            "`captions` (True) need the `layout` 'npy', because LightningDiT's has no "
            "place for them: change either.",
        )
        require_fields(self, "1 or more", "shard_images", "num_augmented", "limit")
        require_fields(self, "in [0, 1]", "augmented_scale")
        require_rising(self, "augmented_scale")

    @property
    def view_names(self) -> tuple[str, ...]:
        """What each view is; the first is always the image itself."""
        more = {
            "original": (),
            "flip": ("flip",),
            "augmented": tuple(f"crop-{n}" for n in range(self.num_augmented)),
        }
        return ("original", *more[self.views])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepulsionConfig:
    """Hidden features of a generator move away from those of former batches.

    *Repulsor*: Zhang et al. 2025, https://arxiv.org/abs/2512.08648, of which we know
    the abstract: a queue of many negatives, a narrow projection head, no positives.
    *Dispersive Loss*, its like without a bank: Wang and He 2025,
    https://arxiv.org/abs/2506.09027, and its released code.
    """

    weight: float = 0.0  # ours, off; Dispersive Loss 0.25
    # Ours: after which share of the blocks features are read; Dispersive Loss: the
    # last. They are the mean over a latent's tokens (ours; there all tokens as one).
    depth_share: float = 0.5
    width: int = 128  # ours: of what the head projects them to, and the bank holds
    bank_size: int = 65536  # ours, MoCo's: how many of them the bank holds
    temperature: float = 0.5  # ours: of squared distances on the unit sphere

    def __post_init__(self):
        require_fields(
            self, "positive", "width", "bank_size", "temperature", of="repulsion."
        )
        require(
            self.weight >= 0,
            f"`repulsion.weight` ({self.weight}) must not be negative, which would "
            "attract: 0 leaves the term out.",
        )
        require(
            0 < self.depth_share <= 1,
            f"`repulsion.depth_share` ({self.depth_share}) must be a share of the "
            "blocks, above 0 and 1 at most: change it.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """One training of a diffusion transformer on a tokenizer's latents."""

    dit: DiTConfig
    optimizer: OptimizerConfig = LIGHTNINGDIT
    time_mean: float = -0.5  # code: VTP-S and VTP-B; VTP-L has -0.75
    time_std: float = 1.25  # code: VTP-S and VTP-B; VTP-L has 1.0
    cosine_weight: float = 1.0  # LightningDiT
    repulsion: RepulsionConfig = later(RepulsionConfig())
    ema_decay: float = 0.9999  # LightningDiT
    # Ours: averages (1 + step) / (10 + step) at most, so that short runs forget their
    # start.
    ema_warmup: bool = later(False)
    batch_size: int = 1024  # LightningDiT
    num_steps: int = 100_000  # LightningDiT: 80 epochs of ImageNet
    # Ours: how a step fits onto its devices; numbers do not depend on it, but for
    # rounding.
    precision: Precision = later("float32")  # networks compute in it; "bfloat16": GPUs
    accumulate: int = later(1)  # microbatches that a device splits its rows into
    sharding: Sharding = later("none")  # "zero": optimizer, teacher; "fsdp": all
    recompute_every: int = later(0)  # ours: as in `PretrainConfig`
    seed: int = 0

    def __post_init__(self):
        require_fields(self, "positive", "time_std")
        require_fields(self, "0 or more", "cosine_weight", "num_steps")
        require_fields(self, "1 or more", "batch_size", "accumulate")
        require_fields(self, "in [0, 1]", "ema_decay")


def fit_dit(
    config: GenerateConfig, values: Mapping[str, int], of: str
) -> GenerateConfig:
    """`config` with `values` for fields of its transformer, which `of` decides.

    A `ValueError` where a field was set to something else than its default or that.
    `of` is the latents or the text tower, in the error.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(DiTConfig)}
    for name, value in values.items():
        asked = getattr(config.dit, name)
        require(
            asked in (value, defaults[name]),
            f"`config.dit.{name}` ({asked}) must be that of the {of} ({value}): leave "
            f"it out, or change the {of}.",
        )
    return dataclasses.replace(config, dit=dataclasses.replace(config.dit, **values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How samples are drawn; every field goes onto the evaluation card."""

    solver: Literal["euler", "heun", "dopri5"] = "euler"  # code
    num_steps: int = 249  # code: 250 grid points; of dopri5 the most it may take
    time_shift: float = 0.075  # code; 0 or 1 leaves the grid uniform
    guidance: float = 1.0  # code: none
    guidance_start: float = 0.0  # LightningDiT: no guidance where t is below
    guidance_end: float = later(1.0)  # ours: nor where it is above
    # What guidance leads away from: the null class, or a weaker "generator"
    # (autoguidance). Ours: the published samplers know the first alone.
    guide: Literal["null", "generator"] = later("null")
    guided_channels: int | None = None  # LightningDiT 3; `None` guides all
    tolerance: float = later(1e-3)  # code: of a dopri5 step, relative
    tolerance_abs: float = later(1e-6)  # code: the same, absolute

    def __post_init__(self):
        require(
            self.solver != "dopri5" or self.time_shift in (0, 1),
            f"`time_shift` ({self.time_shift}) must be 0 for dopri5, which chooses its "
            "steps itself: set it to 0, or choose another solver.",
        )
        fixed = self.tolerance == 1e-3 and self.tolerance_abs == 1e-6
        require(
            self.solver == "dopri5" or fixed,
            f"`tolerance` ({self.tolerance}, absolute {self.tolerance_abs}) must stay "
            f"as it is for {self.solver}, whose steps are fixed: choose dopri5.",
        )
        require(
            math.isfinite(self.guidance),
            f"`guidance` ({self.guidance}) must be a finite number: 1 is none.",
        )
        require(
            self.guide == "null" or self.guidance != 1,
            "`guidance` (1) must be another where a generator guides, which would do "
            "nothing: raise it, or leave the guide out.",
        )
        require(
            0 <= self.guidance_start < self.guidance_end <= 1,
            f"`guidance_start` ({self.guidance_start}) must be below `guidance_end` "
            f"({self.guidance_end}), and both in [0, 1]: change either.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """One set of samples of a generator. Image `i` depends on `seed` and `i`.

    And by its last bits on `group_size`, the images that a device computes together:
    products of other shapes round otherwise. It depends on nothing else: not on how
    many images there are, on how many devices, nor on what was killed meanwhile.
    """

    num_samples: int = 50_000  # paper
    sampler: SamplerConfig = SamplerConfig()
    # Ours: "balanced" has each class as often; code: "uniform", at random. "given":
    # those of a list, again from its start where it ends.
    labels: Literal["balanced", "uniform", "given"] = "balanced"
    seed: int = 0  # code
    precision: Precision = "float32"  # networks compute in it
    group_size: int = 8  # ours: for CPUs; GPUs are busy from 64 on

    def __post_init__(self):
        require_fields(self, "positive", "num_samples", "group_size")
