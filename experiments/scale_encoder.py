"""Does a larger tokenizer make a better generator? Joint pre-training beside pixels.

    python experiments/scale_encoder.py                       # 2 CPU cores: 15 minutes
    python experiments/scale_encoder.py --scale workstation   # a GPU: minutes
    python experiments/scale_encoder.py --smoke               # does it run at all?

Pre-trains tokenizers of several encoder sizes with all three objectives (VTP) and with
reconstruction alone (AE), trains the same diffusion transformer on the latents of each,
samples, and draws generation quality against tokenizer compute, as in the
parameter-scaling figure of the paper (arXiv 2512.13687, section 4). All points have the
same data, decoder, generator, numbers of steps and images, and seeds. Run again, it
continues where it stopped; `--help` lists the options.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Literal

import tyro

from vtp_eqx.config import (
    DistillationConfig,
    GenerateConfig,
    OptimizerConfig,
    PretrainConfig,
    PrototypeConfig,
    ReconstructionConfig,
    SamplerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    ViewsConfig,
)
from vtp_eqx.data.scenes import SceneConfig
from vtp_eqx.study.command import Arguments, Scale, study
from vtp_eqx.study.point import dit_for, Point


HeadsOn = Literal["latent", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A scale: what all points of the study share, and the encoders they do not."""

    encoders: dict[str, TransformerConfig]
    data: SceneConfig
    patch_size: int
    latent_width: int
    pairs: int
    tokenizer_steps: int
    tokenizer_rate: float
    warmup_steps: int
    generator: dict[str, int]
    generator_batch: int
    generator_steps: int
    num_samples: int
    heads_on: HeadsOn = "latent"


def vit(width: int, depth: int) -> TransformerConfig:
    """A small encoder with heads of 48."""
    return TransformerConfig(
        width=width, depth=depth, num_heads=width // 48, init="clip", remat="full"
    )


LAPTOP = Settings(
    encoders={"48x3": vit(48, 3), "96x3": vit(96, 3), "144x3": vit(144, 3)},
    data=SceneConfig(num_train=12_000, num_validation=2400, difficulty=0.0),
    patch_size=8,
    latent_width=32,  # ours: a sixth of a patch's numbers; the paper has a twelfth
    pairs=32,  # ours: in so little time, many steps beat large batches
    tokenizer_steps=1400,
    tokenizer_rate=4e-3,
    warmup_steps=40,
    generator=dict(width=128, depth=3, num_heads=4),
    generator_batch=16,
    generator_steps=2200,
    num_samples=1440,
)
WORKSTATION = Settings(
    encoders={"96x3": vit(96, 3), "192x6": vit(192, 6), "288x8": vit(288, 8)},
    data=SceneConfig(num_train=96_000),
    patch_size=4,
    latent_width=16,
    pairs=64,
    tokenizer_steps=10_000,
    tokenizer_rate=2e-3,
    warmup_steps=500,
    generator=dict(width=256, depth=6, num_heads=8),
    generator_batch=64,
    generator_steps=20_000,
    num_samples=4800,
)
SMOKE = dataclasses.replace(
    LAPTOP,
    encoders={"48x1": vit(48, 1)},
    data=SceneConfig(num_train=4800, num_validation=480),
    tokenizer_steps=6,
    warmup_steps=2,
    generator=dict(width=32, depth=1, num_heads=1),
    generator_steps=6,
    num_samples=480,
)
SETTINGS = {"smoke": SMOKE, "laptop": LAPTOP, "workstation": WORKSTATION}

DECODER = TransformerConfig(
    width=96, depth=2, num_heads=2, norm="layernorm", init="clip", remat="full"
)
# Every word of a caption is one token; the longest has 15 with start and end.
TEXT = TextConfig(
    context=16, vocabulary=400, width=96, depth=2, num_heads=2, remat="full"
)
PROTOTYPES = PrototypeConfig(
    num_prototypes=128, hidden_width=192, bottleneck_width=64, init_std=0.1
)
# Captions name left and right, so nothing is flipped.
VIEWS = ViewsConfig(
    global_size=32,
    local_size=16,
    num_local=2,
    flip_rate=0.0,
    blur_sigma=(0.1, 1.0),
    blur_radius=2,
)


def pretraining(
    settings: Settings, size: str, method: str, seed: int
) -> PretrainConfig:
    """One tokenizer; AE is VTP with two weights at 0 and without their heads."""
    joint = method == "VTP"
    return PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=settings.encoders[size],
            decoder=DECODER,
            text=TEXT if joint else None,
            image_size=settings.data.size,
            patch_size=settings.patch_size,
            latent_width=settings.latent_width,
            heads_on=settings.heads_on,
            contrast_feature="pooled",
        ),
        prototypes=PROTOTYPES if joint else None,
        views=VIEWS,
        # At the 0.04 of large batches, targets over so few prototypes stay uniform.
        distillation=DistillationConfig(
            momentum=(0.99, 1.0), teacher_temperature=(0.02, 0.02)
        ),
        reconstruction=ReconstructionConfig(pooled_weight=1.0, gradient_weight=0.5),
        optimizer=OptimizerConfig(
            learning_rate=settings.tokenizer_rate, warmup_steps=settings.warmup_steps
        ),
        contrast_weight=1.0 if joint else 0.0,
        distillation_weight=1.0 if joint else 0.0,
        # At the paper's 0.1, so few steps would leave the pixels behind.
        reconstruction_weight=1.0,
        distillation_drop=0.0,
        pca_start=True,
        num_steps=settings.tokenizer_steps,
        seed=seed,
        # Pairs to distilled images as in the paper; pixels are cheap here: of all.
        batch_size=settings.pairs,
        distillation_batch=settings.pairs // 4,
        reconstruction_batch=settings.pairs,
    )


def plan(
    scale: Scale, seeds: Sequence[int], heads_on: HeadsOn = "latent"
) -> list[Point]:
    """Every point: encoder sizes x methods x seeds."""
    settings = dataclasses.replace(SETTINGS[scale], heads_on=heads_on)
    return [
        point(settings, size, method, seed)
        for seed in seeds
        for size in settings.encoders
        for method in ("AE", "VTP")
    ]


def point(settings: Settings, size: str, method: str, seed: int) -> Point:
    """One tokenizer and the generator that judges it."""
    pretrain = pretraining(settings, size, method, seed)
    dit = dit_for(pretrain.tokenizer, **settings.generator, remat="full")
    optimizer = OptimizerConfig(
        learning_rate=2e-3,
        warmup_steps=min(50, settings.generator_steps // 2),
        b2=0.99,
        eps=1e-8,
        weight_decay=0.0,
    )
    return Point(
        method=method,
        size=size,
        data=settings.data,
        pretrain=pretrain,
        generate=GenerateConfig(
            dit=dit,
            optimizer=optimizer,
            time_mean=0.0,
            time_std=1.0,
            ema_decay=0.99,
            batch_size=settings.generator_batch,
            num_steps=settings.generator_steps,
        ),
        sampler=SamplerConfig(solver="heun", num_steps=10, time_shift=0.0),
        num_samples=settings.num_samples,
    )


QUESTION = """\
Each tokenizer is pre-trained either jointly (VTP: contrast, self-distillation and
reconstruction) or on reconstruction alone (AE); the same diffusion transformer is then
trained on the latents of each. Does generation improve as the tokenizer grows?"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """The options of every study, and one of this one."""

    heads_on: HeadsOn = "latent"
    """What contrast and distillation read: the latents, or the encoder's full features
    as in the released models."""


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    study(
        "scale_encoder",
        "Generation against tokenizer compute",
        QUESTION,
        functools.partial(plan, heads_on=options.heads_on),
        options,
    )
