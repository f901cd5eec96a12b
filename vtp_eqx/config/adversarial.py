"""Configs of a decoder's fine-tuning against a discriminator (stage two).

The paper says no more of it than that it is done with a GAN. Defaults are the recipe of
RAE (*RAE*, https://arxiv.org/abs/2510.11690) or of VQGAN (*VQGAN*,
https://arxiv.org/abs/2012.09841, which VA-VAE follows).
"""

import dataclasses
from typing import Literal

from vtp_eqx.config.checks import require, require_fields
from vtp_eqx.config.controls import check_noise, NoiseLaw
from vtp_eqx.config.fields import later
from vtp_eqx.config.runs import OptimizerConfig, ReconstructionConfig
from vtp_eqx.config.shapes import Precision, Sharding


DiscriminatorNorm = Literal["batch", "group"]

L1_AND_LPIPS = ReconstructionConfig(perceptual_weight=1.0)
RAE_OPTIMIZER = OptimizerConfig(
    learning_rate=2e-4,  # RAE; VA-VAE 1e-4
    warmup_steps=0,  # ours
    final_rate=0.1,  # RAE: 2e-5
    b1=0.9,  # RAE; VQGAN 0.5
    b2=0.95,  # RAE; VQGAN 0.9
    eps=1e-8,  # RAE
    weight_decay=0.0,  # RAE
    clip_norm=None,  # RAE
)
RAE_WARM = dataclasses.replace(RAE_OPTIMIZER, warmup_steps=2500)  # RAE: one epoch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The shape of a discriminator.

    "patch" is VQGAN's PatchGAN, a logit for each of many overlapping squares.
    "features" has heads on a frozen vision network, a logit for each of its patches at
    each of several depths, as RAE has them on a DINO.
    """

    kind: Literal["patch", "features"] = "patch"  # VQGAN; RAE: "features"
    width: int = 64  # VQGAN: channels of the first layer of "patch"
    num_layers: int = 3  # VQGAN: of "patch"; each doubles the width and halves sides
    num_levels: int = 4  # RAE: depths of the network, evenly spread, for "features"
    kernel: int = 9  # RAE: patches in a row that a head mixes, for "features"
    # VQGAN, over the images of one device, and RAE, over 8 images. Ours: over all
    # images of a batch, on any number of devices. "group" looks at no other image, and
    # is needed where `accumulate` splits a batch.
    norm: DiscriminatorNorm = "batch"

    def __post_init__(self):
        require_fields(self, "1 or more", "width", "num_layers", "num_levels")
        require(
            self.kernel % 2 == 1 and self.kernel > 0,
            f"`kernel` ({self.kernel}) must be odd, so that it has a middle: change "
            "it by one.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to all that a discriminator sees, real or fake, alike.

    Zhao et al. 2020 (DiffAugment), https://arxiv.org/abs/2006.10738.
    """

    rate: float = 1.0  # RAE: share of images; 0 where there is none (VQGAN)
    color: bool = True  # RAE: brightness, saturation and contrast
    translation: float = 0.125  # RAE: of a side, at most
    cutout: float = 0.0  # RAE; DiffAugment 0.5: side of a gray square, of a side

    def __post_init__(self):
        require_fields(self, "in [0, 1]", "rate", "translation", "cutout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The discriminator, when it begins, and what it is worth to the decoder."""

    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = RAE_OPTIMIZER  # of the discriminator, from its start
    weight: float = 0.75  # RAE, VQGAN; VA-VAE 0.5: times the adaptive weight
    weight_eps: float = 1e-6  # RAE; VQGAN 1e-4: added to the norm it is divided by
    weight_limit: float = 1e4  # RAE, VQGAN: of the adaptive weight
    discriminator_start: int = 15_000  # RAE, epoch 6 of 16: the first step it learns in
    decoder_start: int = 20_000  # RAE, epoch 8 of 16: the first step it is learned from
    # Ours, off; MaskGIT and later tokenizers 1e-3: of LeCam's term.
    lecam_weight: float = 0.0
    lecam_decay: float = 0.999  # LeCam: of the averages of logits

    def __post_init__(self):
        require_fields(self, "0 or more", "weight", "weight_eps", "lecam_weight")
        require_fields(self, "positive", "weight_limit")
        require_fields(self, "in [0, 1]", "lecam_decay")
        require(
            0 <= self.discriminator_start <= self.decoder_start,
            f"`discriminator_start` ({self.discriminator_start}) must be 0 or more and "
            f"not after `decoder_start` ({self.decoder_start}), or a decoder would "
            "learn from random weights: lower it.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A tokenizer's decoder trained on, while encoder and bottleneck stay as they are.

    Latents do not change, so that generators of them stay valid.
    """

    # RAE, VQGAN: both 1. RAE and VQGAN take the L1 of colors, and here it is that of
    # normalized pixels (the paper's), about four times as large.
    reconstruction: ReconstructionConfig = L1_AND_LPIPS
    adversarial: AdversarialConfig = AdversarialConfig()
    optimizer: OptimizerConfig = RAE_WARM  # of the decoder
    # Ours, off: in deviations of a channel. RAE 0.8, so that the decoder forgives a
    # generator, with the law "uniform".
    latent_noise: float = 0.0
    noise_law: NoiseLaw = later("fixed")
    ema_decay: float = 0.9978  # RAE
    batch_size: int = 512  # RAE; VA-VAE 256
    num_steps: int = 40_000  # RAE: 16 epochs of ImageNet
    # Ours: how a step fits onto its devices; numbers do not depend on it, but for
    # rounding.
    precision: Precision = "float32"  # RAE; networks compute in it
    accumulate: int = 1  # microbatches that a device splits its rows into
    sharding: Sharding = "none"  # "zero": optimizer, teacher; "fsdp": all
    seed: int = 0

    def __post_init__(self):
        adversarial = self.adversarial
        require_fields(self, "0 or more", "latent_noise", "num_steps")
        require_fields(self, "1 or more", "batch_size", "accumulate")
        require_fields(self, "in [0, 1]", "ema_decay")
        check_noise("noise_law", self.noise_law, self.latent_noise)
        require(
            self.accumulate == 1 or adversarial.discriminator.norm == "group",
            f"`accumulate` ({self.accumulate}) must be 1 where the discriminator's "
            "`norm` is 'batch', which looks at all images at once: set it to 1, or "
            "take 'group'.",
        )
        require(
            adversarial.discriminator_start < max(self.num_steps, 1),
            f"`discriminator_start` ({adversarial.discriminator_start}) must lie below "
            f"`num_steps` ({self.num_steps}): lower it.",
        )
