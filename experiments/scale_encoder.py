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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a scale is: the sizes of everything that all points of it share."""

    encoders: dict[str, TransformerConfig]
    data: SceneConfig
    patch_size: int
    latent_width: int
    tokenizer_steps: int
    generator_steps: int
    generator: dict[str, int]
    num_samples: int
    heads_on: str = "latent"  # or "full", as the released models have it


def vit(width: int, depth: int) -> TransformerConfig:
    """A small encoder with heads of 48."""
    return TransformerConfig(width=width, depth=depth, num_heads=width // 48)


LAPTOP = Settings(
    encoders={"48x2": vit(48, 2), "96x3": vit(96, 3), "144x4": vit(144, 4)},
    data=SceneConfig(),
    patch_size=8,
    latent_width=32,
    tokenizer_steps=800,
    generator_steps=1000,
    generator=dict(width=128, depth=3, num_heads=4),
    num_samples=2400,
)
WORKSTATION = dataclasses.replace(
    LAPTOP,
    encoders={**LAPTOP.encoders, "192x6": vit(192, 6), "288x8": vit(288, 8)},
    data=SceneConfig(num_train=96_000),
    patch_size=4,
    latent_width=16,
    tokenizer_steps=10_000,
    generator_steps=20_000,
    generator=dict(width=256, depth=6, num_heads=8),
    num_samples=4800,
)
SMOKE = dataclasses.replace(
    LAPTOP,
    encoders={"48x1": vit(48, 1)},
    data=SceneConfig(num_train=4800, num_validation=480),
    tokenizer_steps=6,
    generator_steps=6,
    generator=dict(width=32, depth=1, num_heads=1),
    num_samples=480,
)
SETTINGS = {"smoke": SMOKE, "laptop": LAPTOP, "workstation": WORKSTATION}


def pretraining(
    settings: Settings, size: str, method: str, seed: int
) -> PretrainConfig:
    """One tokenizer; AE is VTP with two weights at 0 and nothing else changed."""
    joint = method == "VTP"
    patch = settings.patch_size
    return PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=settings.encoders[size],
            decoder=TransformerConfig(width=96, depth=2, num_heads=2, norm="layernorm"),
            text=TextConfig(context=24, vocabulary=400, width=96, depth=1, num_heads=2)
            if joint
            else None,
            image_size=32,
            patch_size=patch,
            latent_width=settings.latent_width,
            heads_on=settings.heads_on,
        ),
        prototypes=PrototypeConfig(
            num_prototypes=512, hidden_width=192, bottleneck_width=64
        )
        if joint
        else None,
        # Captions name left and right, so nothing is flipped.
        views=ViewsConfig(
            global_size=32, local_size=16, num_local=2, flip_rate=0.0,
            blur_sigma=(0.1, 1.0), blur_radius=2,
        ),
        distillation=DistillationConfig(momentum=(0.99, 1.0)),
        reconstruction=ReconstructionConfig(pooled_weight=1.0, gradient_weight=0.5),
        optimizer=OptimizerConfig(warmup_steps=2 if size == "48x1" else 100),
        contrast_weight=1.0 if joint else 0.0,
        distillation_weight=1.0 if joint else 0.0,
        reconstruction_weight=1.0,
        batch_size=128,
        distillation_batch=32,
        reconstruction_batch=64,
        distillation_drop=0.0,
        pca_start=True,
        num_steps=settings.tokenizer_steps,
        seed=seed,
    )  # fmt: skip


def plan(scale: Scale, seeds: Sequence[int]) -> list[Point]:
    """Every point, small and cheap ones first, so that the figure fills early."""
    settings = SETTINGS[scale]
    return [
        point(settings, size, method, seed)
        for seed in seeds
        for size in settings.encoders
        for method in ("AE", "VTP")
    ]


def point(settings: Settings, size: str, method: str, seed: int) -> Point:
    """One tokenizer and the generator that judges it."""
    pretrain = pretraining(settings, size, method, seed)
    return Point(
        method=method,
        size=size,
        data=settings.data,
        pretrain=pretrain,
        generate=GenerateConfig(
            dit=dit_for(pretrain.tokenizer, **settings.generator),
            optimizer=OptimizerConfig(
                learning_rate=1e-3, warmup_steps=min(50, settings.generator_steps - 1),
                b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=1.0,
            ),
            time_mean=0.0,
            time_std=1.0,
            ema_decay=0.995,
            batch_size=128,
            num_steps=settings.generator_steps,
        ),
        sampler=SamplerConfig(solver="heun", num_steps=12, time_shift=0.0),
        num_samples=settings.num_samples,
    )  # fmt: skip


QUESTION = """\
Each tokenizer is pre-trained either jointly (VTP: contrast, self-distillation and
reconstruction) or on reconstruction alone (AE); the same diffusion transformer is then
trained on the latents of each. Does generation improve as the tokenizer grows?"""


if __name__ == "__main__":
    study(
        "scale_encoder",
        "Generation against tokenizer compute",
        QUESTION,
        plan,
        tyro.cli(Arguments, description=__doc__),
    )
