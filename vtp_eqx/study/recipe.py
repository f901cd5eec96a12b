"""The small recipe that all studies share: what a method is, and one run of it.

A study is a list of runs of one `Recipe`, with some of its values changed.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from vtp_eqx.config import (
    DecodeConfig,
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
from vtp_eqx.study.point import dit_for, Point
from vtp_eqx.training.flops import train_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a tokenizer is pre-trained: the weight of each objective, and controls."""

    contrast: float = 0.0
    distillation: float = 0.0
    # At the paper's 0.1, so few steps would leave the pixels behind.
    reconstruction: float = 1.0
    heads_on: Literal["latent", "full"] = "latent"
    weighting: Literal["fixed", "learned"] = "fixed"
    smoothness: float = 0.0
    latent_noise: float = 0.0
    latent_share: float = 1.0  # of the recipe's channels
    trained: bool = True
    pca_start: bool = True


# Ours. At the weight of pixels, contrast and distillation end so short a training with
# latents that reconstruct worse than principal components do.
MEANING = 0.3

METHODS: Mapping[str, Method] = {
    "AE": Method(),
    "CLIP+AE": Method(contrast=MEANING),
    "SSL+AE": Method(distillation=MEANING),
    # Contrast and distillation read the latents, or (as in the released models) the
    # encoder's full features.
    "VTP": Method(contrast=MEANING, distillation=MEANING),
    "VTP full": Method(contrast=MEANING, distillation=MEANING, heads_on="full"),
    # Controls. Is it the weights, or that latents are narrower, robust or smooth?
    "VTP learned weights": Method(
        contrast=MEANING, distillation=MEANING, weighting="learned"
    ),
    "AE half the channels": Method(latent_share=0.5),
    "AE latent noise": Method(latent_noise=0.5),
    "AE smooth": Method(smoothness=0.3),
    # And what does pre-training on pixels add to meaning, or to nothing at all?
    "CLIP": Method(contrast=1.0, reconstruction=0.0),
    "principal components": Method(trained=False),
    "random encoder": Method(trained=False, pca_start=False),
}
JOINT = "VTP"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A scale: what all runs of a study share but for what it varies."""

    encoder: TransformerConfig
    data: SceneConfig
    patch_size: int
    latent_width: int
    pairs: int  # the contrastive batch, and the batch of reconstruction
    tokenizer_steps: int
    tokenizer_rate: float
    warmup_steps: int
    decoder_steps: int  # of the stage on frozen latents; 0: the decoder trained jointly
    generator: Mapping[str, int]
    generator_batch: int
    generator_steps: int
    generator_ema: float
    guidance: float
    num_samples: int


def vit(width: int, depth: int) -> TransformerConfig:
    """A small encoder with heads of 48."""
    return TransformerConfig(
        width=width, depth=depth, num_heads=width // 48, init="clip", remat="full"
    )


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
PIXELS = ReconstructionConfig(pooled_weight=1.0, gradient_weight=0.5)


# What fair comparisons share: samples that can be named, and the same decoder stage.
LAPTOP = Recipe(
    encoder=vit(96, 3),
    data=SceneConfig(num_train=12_000, num_validation=2400, difficulty=0.0),
    patch_size=8,
    latent_width=32,  # ours: a sixth of a patch's numbers; the paper has a twelfth
    pairs=32,  # ours: in so little time, many steps beat large batches
    tokenizer_steps=2800,
    tokenizer_rate=4e-3,
    warmup_steps=40,
    decoder_steps=2000,
    generator=dict(width=128, depth=3, num_heads=4),
    generator_batch=16,
    generator_steps=6000,
    generator_ema=0.998,
    guidance=1.0,
    num_samples=2400,
)
WORKSTATION = dataclasses.replace(
    LAPTOP,
    data=SceneConfig(num_train=96_000),
    patch_size=4,
    latent_width=16,
    pairs=64,
    tokenizer_steps=10_000,
    tokenizer_rate=2e-3,
    warmup_steps=500,
    decoder_steps=10_000,
    generator=dict(width=256, depth=6, num_heads=8),
    generator_batch=64,
    generator_steps=60_000,
    generator_ema=0.9995,
    num_samples=4800,
)
SMOKE = dataclasses.replace(
    LAPTOP,
    encoder=vit(48, 1),
    data=SceneConfig(num_train=4800, num_validation=480),
    tokenizer_steps=6,
    warmup_steps=1,
    decoder_steps=6,
    generator=dict(width=32, depth=1, num_heads=1),
    generator_steps=6,
    num_samples=480,
)
RECIPES: Mapping[str, Recipe] = {
    "smoke": SMOKE,
    "laptop": LAPTOP,
    "workstation": WORKSTATION,
}


def point(recipe: Recipe, method: str, size: str, seed: int, **changes: Any) -> Point:
    """One tokenizer and the generator that judges it.

    `size` is what table and figure call its place on the curve of its method, and
    `changes` replace values of the recipe.
    """
    recipe = dataclasses.replace(recipe, **changes)
    pretrain = pretraining(recipe, METHODS[method], seed)
    decode = DecodeConfig(
        decoder=DECODER,
        reconstruction=PIXELS,
        optimizer=_quick(recipe.decoder_steps),
        ema_decay=0.99,
        batch_size=recipe.pairs,
        num_steps=recipe.decoder_steps,
        seed=seed,
    )
    return Point(
        method=method,
        size=size,
        data=recipe.data,
        pretrain=pretrain,
        decode=decode if recipe.decoder_steps > 0 else None,
        generate=GenerateConfig(
            dit=dit_for(pretrain.tokenizer, **recipe.generator, remat="dots"),
            optimizer=_quick(recipe.generator_steps),
            time_mean=0.0,
            time_std=1.0,
            ema_decay=recipe.generator_ema,
            batch_size=recipe.generator_batch,
            num_steps=recipe.generator_steps,
            seed=seed,
        ),
        sampler=SamplerConfig(
            solver="heun", num_steps=10, time_shift=0.0, guidance=recipe.guidance
        ),
        num_samples=recipe.num_samples,
    )


def pretraining(recipe: Recipe, method: Method, seed: int) -> PretrainConfig:
    """One tokenizer; what a method does without has no heads for it."""
    return PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=recipe.encoder,
            decoder=DECODER,
            text=TEXT if method.contrast > 0 else None,
            image_size=recipe.data.size,
            patch_size=recipe.patch_size,
            latent_width=round(method.latent_share * recipe.latent_width),
            heads_on=method.heads_on,
            contrast_feature="pooled",
        ),
        prototypes=PROTOTYPES if method.distillation > 0 else None,
        views=VIEWS,
        # At the 0.04 of large batches, targets over so few prototypes stay uniform.
        distillation=DistillationConfig(
            momentum=(0.99, 1.0), teacher_temperature=(0.02, 0.02)
        ),
        reconstruction=PIXELS,
        optimizer=OptimizerConfig(
            learning_rate=recipe.tokenizer_rate, warmup_steps=recipe.warmup_steps
        ),
        contrast_weight=method.contrast,
        distillation_weight=method.distillation,
        reconstruction_weight=method.reconstruction,
        smoothness_weight=method.smoothness,
        latent_noise=method.latent_noise,
        weighting=method.weighting,
        distillation_drop=0.0,
        pca_start=method.pca_start,
        num_steps=recipe.tokenizer_steps if method.trained else 0,
        seed=seed,
        # Pairs to distilled images as in the paper; pixels are cheap here: of all.
        batch_size=recipe.pairs,
        distillation_batch=recipe.pairs // 4,
        reconstruction_batch=recipe.pairs,
    )


def judged_longer(recipe: Recipe) -> Recipe:
    """The recipe with what makes its judge fairer, and its runs twice as long.

    Generators of four times the steps, so that samples are whole; and scenes without
    stripes, of which generators draw too few by chance.
    """
    textures = ("plain", "checkered", "dotted")
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, textures=textures),
        generator_steps=4 * recipe.generator_steps,
    )


def as_costly_steps(recipe: Recipe, method: str) -> int:
    """The steps of `method` for the FLOPs of joint pre-training by this recipe."""
    joint, own = (
        train_flops(pretraining(recipe, METHODS[name], 0)) for name in (JOINT, method)
    )
    return round(recipe.tokenizer_steps * joint / own)


def _quick(num_steps: int) -> OptimizerConfig:
    """AdamW for a short training of a small network; all values are ours."""
    return OptimizerConfig(
        learning_rate=2e-3,
        warmup_steps=min(50, num_steps // 2),
        b2=0.99,
        eps=1e-8,
        weight_decay=0.0,
    )
