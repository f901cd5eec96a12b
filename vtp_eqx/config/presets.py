"""Trainings at the sizes of the paper, and pre-trainings at those of few GPUs.

The batch mix is the paper's; what it leaves open is ours, from the recipes it follows:
none of these has been trained to its end here.
"""

import dataclasses
import math
from typing import Any

from vtp_eqx.config.adversarial import (
    AdversarialConfig,
    AugmentConfig,
    DiscriminatorConfig,
    FinetuneConfig,
    RAE_OPTIMIZER,
)
from vtp_eqx.config.alignment import AlignmentConfig
from vtp_eqx.config.controls import ControlsConfig
from vtp_eqx.config.generation import GenerateConfig, LIGHTNINGDIT
from vtp_eqx.config.runs import (
    DistillationConfig,
    OptimizerConfig,
    PretrainConfig,
    ReconstructionConfig,
)
from vtp_eqx.config.shapes import (
    DECODER_L4,
    DIT_1B,
    DIT_B,
    DIT_S,
    DIT_XL,
    DiTConfig,
    PrototypeConfig,
    published,
    Remat,
    TextConfig,
    TransformerConfig,
    VIT_B,
    VIT_L,
    VIT_S,
)


PAPER_BATCH = 16384  # paper: of its ablations
FINAL_BATCH = 32768  # the authors, of the released models
PAPER_RATE = 1e-3  # ours, at the paper's batch and above
LARGE_RATE = 5e-4  # ours: 24 blocks without layer scales spike sooner


def with_batch(
    config: PretrainConfig, batch_size: int, **changes: Any
) -> PretrainConfig:
    """`config` with another contrastive batch, and `changes` on top.

    Distillation and reconstruction keep their shares of it, a quarter and an eighth
    (paper). Below the paper's batch the learning rate falls with the root of the batch,
    as DINOv2's does.
    """
    share = lambda batch_size: math.sqrt(min(batch_size / PAPER_BATCH, 1.0))
    peak = config.optimizer.learning_rate / share(config.batch_size)
    rate = peak * share(batch_size)
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    sizes = dict(
        batch_size=batch_size,
        distillation_batch=batch_size // 4,
        reconstruction_batch=batch_size // 8,
    )
    return dataclasses.replace(config, **{"optimizer": optimizer, **sizes, **changes})


def _at_scale(
    encoder: TransformerConfig,
    *,
    drop: float,
    remat: Remat,
    rate: float = PAPER_RATE,
) -> PretrainConfig:
    # Queries and keys are normalized, as the paper says; it also keeps bfloat16 sane.
    encoder = dataclasses.replace(
        encoder, qk_norm=True, remat=remat, residual="float32"
    )
    config = PretrainConfig(
        tokenizer=published(encoder, text=TextConfig(remat=remat), rope="float32"),
        prototypes=PrototypeConfig(),
        distillation=DistillationConfig(koleo_group=64),  # DINOv2: of one GPU
        reconstruction=ReconstructionConfig(perceptual_weight=1.0),  # paper
        optimizer=OptimizerConfig(
            learning_rate=rate,
            warmup_steps=5000,  # OpenCLIP 2000 to 10000
            # DINOv2: OpenCLIP's 1e-6 damps the steps of prototypes and of a decoder
            # whose gradient weighs a tenth.
            eps=1e-8,
            final_weight_decay=0.2,  # ours: OpenCLIP 0.2, DINOv2 0.04 to 0.4
            clip_norm=3.0,  # DINOv2
            clip_by="network",  # DINOv2
            patch_rate=0.2,  # DINOv2
            freeze_prototypes=1250,  # DINOv2
            spike_factor=10.0,  # ours
        ),
        batch_size=PAPER_BATCH,
        distillation_drop=drop,
        precision="bfloat16",
        sharding="zero",
    )
    return with_batch(config, FINAL_BATCH)


# The released models: decoders that mirror their encoders, a batch of 32768. How long
# they were trained is not known; ours: 67k steps, 2.2e9 pairs.
PRETRAIN_S = _at_scale(VIT_S, drop=0.1, remat="dots")
PRETRAIN_B = _at_scale(VIT_B, drop=0.1, remat="dots")
PRETRAIN_L = _at_scale(VIT_L, drop=0.3, remat="full", rate=LARGE_RATE)


def _ablation(config: PretrainConfig) -> PretrainConfig:
    encoder = config.tokenizer.encoder
    decoder = dataclasses.replace(
        DECODER_L4, qk_norm=True, remat=encoder.remat, residual="float32"
    )
    tokenizer = dataclasses.replace(config.tokenizer, decoder=decoder)
    return with_batch(config, PAPER_BATCH, tokenizer=tokenizer)


# The paper's ablations (sections 3.6 and 4.1): a decoder of four layers of ViT-L, a
# batch of 16384 and about 1.1e9 pairs.
PRETRAIN_S_ABLATION = _ablation(PRETRAIN_S)
PRETRAIN_B_ABLATION = _ablation(PRETRAIN_B)
PRETRAIN_L_ABLATION = _ablation(PRETRAIN_L)

# VA-VAE's objective at the paper's size B: nothing but latents that are decoded, drawn
# from a posterior, and alike where a frozen DINOv2 ViT-L/14 sees alike, with margins
# and an adaptive weight. What differs from the source: that is convolutional, with 32
# channels; it learns from a discriminator from the start, where here that is stage two
# (`FINETUNE_VA_VAE`); its long run begins with a weight of 0.5 and without margins; and
# it takes Adam's steps of 1e-4 on 256 images, where here they are those of VTP.
VA_VAE_B = dataclasses.replace(
    PRETRAIN_B,
    contrast_weight=0.0,
    distillation_weight=0.0,
    reconstruction_weight=1.0,
    alignment_weight=0.1,
    alignment=AlignmentConfig(weighting="adaptive"),
    controls=ControlsConfig(kl_weight=1e-6),
)

# Small budgets: 1e8 pairs on one GPU of 80 GB, 4e8 on eight of them. Ours: the 512
# crops that a teacher sees in a step of one GPU do not fill 65536 prototypes, and a
# slower teacher averages over as many crops as DINOv2's does.
PRETRAIN_S_1_GPU = with_batch(
    PRETRAIN_S, 1024, num_steps=100_000, accumulate=4, sharding="none",
    prototypes=PrototypeConfig(num_prototypes=8192),
    distillation=DistillationConfig(koleo_group=64, momentum=(0.996, 1.0)),
)  # fmt: skip
PRETRAIN_S_8_GPUS = with_batch(PRETRAIN_S, 4096, num_steps=100_000, accumulate=2)
PRETRAIN_B_8_GPUS = with_batch(PRETRAIN_B, 4096, num_steps=100_000, accumulate=4)


def _lightningdit(dit: DiTConfig) -> GenerateConfig:
    """LightningDiT's 80 epochs on the latents of VTP-S or VTP-B."""
    # LightningDiT: its positions are float32, which autocast adds tokens to.
    dit = dataclasses.replace(dit, remat="dots", residual="float32")
    # bfloat16: LightningDiT.
    return GenerateConfig(dit=dit, precision="bfloat16", sharding="zero")


GENERATE_S = _lightningdit(DIT_S)
GENERATE_B = _lightningdit(DIT_B)
GENERATE_XL = _lightningdit(DIT_XL)
GENERATE_1B = _lightningdit(DIT_1B)
# Code: times of generators on latents of VTP-L lie more on the noisy side.
_ON_L = dict(time_mean=-0.75, time_std=1.0)
GENERATE_B_ON_L = dataclasses.replace(GENERATE_B, **_ON_L)
GENERATE_XL_ON_L = dataclasses.replace(GENERATE_XL, **_ON_L)
GENERATE_1B_ON_L = dataclasses.replace(GENERATE_1B, **_ON_L)
# Ours: for a CPU, on latents of scenes.
GENERATE_LAPTOP = GenerateConfig(
    dit=DiTConfig(width=128, depth=3, num_heads=4, remat="dots"),
    optimizer=dataclasses.replace(
        LIGHTNINGDIT, learning_rate=1e-3, warmup_steps=100, clip_norm=1.0
    ),
    time_mean=0.0,
    time_std=1.0,
    ema_decay=0.998,
    ema_warmup=True,
    batch_size=64,
    num_steps=4000,
)

# Stage two. RAE's: see the defaults. VA-VAE's, of the parts that it shares with a
# frozen encoder.
FINETUNE_RAE = FinetuneConfig(
    adversarial=AdversarialConfig(discriminator=DiscriminatorConfig(kind="features")),
    # RAE has a `latent_noise` of 0.8, "uniform": see the next.
    sharding="zero",
)
# Of a decoder that has learned nothing, on the features of a frozen encoder.
FINETUNE_RAE_LATENTS = dataclasses.replace(
    FINETUNE_RAE, latent_noise=0.8, noise_law="uniform"
)
_VA_VAE_OPTIMIZER = dataclasses.replace(
    LIGHTNINGDIT, learning_rate=1e-4, b1=0.5, b2=0.9
)
FINETUNE_VA_VAE = FinetuneConfig(
    adversarial=AdversarialConfig(
        augment=AugmentConfig(rate=0.0),
        optimizer=_VA_VAE_OPTIMIZER,
        weight=0.5,
        weight_eps=1e-4,
        discriminator_start=2500,  # 5001 of its steps, which count both optimizers
        decoder_start=2500,
    ),
    optimizer=_VA_VAE_OPTIMIZER,
    ema_decay=0.0,  # none
    batch_size=256,
    num_steps=250_000,  # 50 epochs of ImageNet
    sharding="zero",
)
# Ours: for a CPU, on scenes, without the weights of LPIPS.
FINETUNE_LAPTOP = FinetuneConfig(
    reconstruction=ReconstructionConfig(),
    adversarial=AdversarialConfig(
        discriminator=DiscriminatorConfig(width=32, num_layers=2),
        discriminator_start=200,
        decoder_start=400,
        lecam_weight=1e-3,
    ),
    optimizer=dataclasses.replace(RAE_OPTIMIZER, warmup_steps=100, clip_norm=1.0),
    ema_decay=0.99,
    batch_size=64,
    num_steps=3000,
)
