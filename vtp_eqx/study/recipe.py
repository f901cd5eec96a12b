"""The small recipe that all studies share: its scales, and one run.

A study is a list of runs of one `Recipe`, with some of its values changed. All values
are ours unless a comment says otherwise.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from vtp_eqx.config import (
    AlignmentConfig,
    DecodeConfig,
    DistillationConfig,
    FlowDistillationConfig,
    GenerateConfig,
    OptimizerConfig,
    Precision,
    PretrainConfig,
    PrototypeConfig,
    ReconstructionConfig,
    RepulsionConfig,
    SamplerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    ViewsConfig,
)
from vtp_eqx.scenes.render import SceneConfig, STUDY_DIFFICULTY
from vtp_eqx.study.dataset import data_kind, DataConfig
from vtp_eqx.study.methods import Method, METHODS
from vtp_eqx.study.run_spec import dit_for, RunSpec
from vtp_eqx.study.scene_kind import Labels
from vtp_eqx.training.adapter import adapted_config
from vtp_eqx.training.flops import train_flops


Scale = Literal["smoke", "laptop", "workstation", "accelerator"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A scale: the settings that all runs of a study share."""

    encoder: TransformerConfig
    decoder: TransformerConfig  # of pixels: the joint one, and that of the stage after
    data: DataConfig
    text: TextConfig
    tokenizer_images: int | None = None  # of the training images; `None`: all
    patch_size: int
    latent_width: int
    pairs: int  # the contrastive batch
    distilled: int  # images of it for self-distillation
    pixels: int  # images of it that are reconstructed
    tokenizer_steps: int
    tokenizer_rate: float
    warmup_steps: int
    # From principal components: larger rates wreck that start within 200 steps.
    pca_rate: float
    pca_warmup_steps: int
    decoder_steps: int  # of the stage on frozen latents; 0: the decoder trained jointly
    generator: Mapping[str, int]
    generator_batch: int
    generator_rate: float
    generator_ema: float
    budgets: tuple[int, ...]  # generator steps after which samples are measured
    labels: Labels = "class"
    num_samples: int = 2400
    guidance: float = 1.0  # of the samples; 1: none
    gradient_batches: int = 0  # that cosines between gradients are measured over
    precision: Precision = "float32"  # that networks compute in as they are trained


def vit(width: int, depth: int) -> TransformerConfig:
    """A small encoder with heads of 48."""
    return TransformerConfig(
        width=width, depth=depth, num_heads=width // 48, remat="full"
    )


def vit_decoder(width: int, depth: int) -> TransformerConfig:
    """A small pixel decoder with heads of 48."""
    return dataclasses.replace(vit(width, depth), norm="layernorm")


# Every word and comma of a caption is one token; the longest has 17 with start and end.
TEXT = TextConfig(
    context=17, vocabulary=400, width=96, depth=1, num_heads=2, remat="full"
)
# Two for each row of the teacher, which sees two crops of each of 32 images.
PROTOTYPES = PrototypeConfig(
    num_prototypes=128, hidden_width=192, bottleneck_width=64, init_std=0.1
)
# Whole images for contrast and pixels. Captions name left and right, so that nothing is
# flipped, and colors, so that hues stay.
VIEWS = ViewsConfig(
    global_size=32,
    local_size=16,
    num_local=2,
    contrast_scale=(1.0, 1.0),
    flip_rate=0.0,
    hue=0.0,
    gray_rate=0.0,
    blur_sigma=(0.1, 1.0),
    blur_radius=2,
    solarize_rate=0.0,
)
PIXELS = ReconstructionConfig()  # L1 alone
BANK_SIZE = 1024  # of Repulsor: a twelfth of the scenes; MoCo's is a twentieth
SCENES = SceneConfig(
    difficulty=STUDY_DIFFICULTY,
    num_train=12_000,
    num_validation=4800,
    # Of stripes, generators draw too few by chance.
    textures=("plain", "checkered", "dotted"),
    validation_in_groups=False,
)

LAPTOP = Recipe(
    encoder=vit(96, 3),
    decoder=vit_decoder(96, 2),
    data=SCENES,
    text=TEXT,
    patch_size=8,
    latent_width=64,  # a third of a patch's numbers; the paper has a twelfth
    pairs=32,
    distilled=32,
    pixels=16,
    tokenizer_steps=3000,
    tokenizer_rate=2e-3,
    warmup_steps=100,
    pca_rate=3e-4,
    pca_warmup_steps=300,
    decoder_steps=2000,
    generator=dict(width=128, depth=3, num_heads=4),
    generator_batch=16,
    generator_rate=1e-3,
    generator_ema=0.998,
    budgets=(2000, 6000),
)
WORKSTATION = dataclasses.replace(
    LAPTOP,
    data=dataclasses.replace(SCENES, num_train=96_000),
    pairs=64,
    distilled=64,
    pixels=32,
    tokenizer_steps=20_000,
    tokenizer_rate=1e-3,
    warmup_steps=500,
    pca_warmup_steps=1000,
    decoder_steps=10_000,
    generator=dict(width=256, depth=6, num_heads=8),
    generator_batch=64,
    generator_rate=5e-4,
    generator_ema=0.9995,
    budgets=(10_000, 40_000),
    num_samples=4800,
)
# Ten minutes of one H100 for some six runs; estimated from the FLOPs of its steps and
# the speeds of docs/results/accelerator.md, not yet run. 64 tokens, not 16.
ACCELERATOR = dataclasses.replace(
    LAPTOP,
    encoder=TransformerConfig(width=384, depth=6, num_heads=6),
    decoder=TransformerConfig(width=384, depth=6, num_heads=6, norm="layernorm"),
    data=dataclasses.replace(SCENES, size=64, num_train=24_000),
    pairs=512,
    distilled=128,
    pixels=512,
    tokenizer_steps=1500,
    tokenizer_rate=1e-3,
    decoder_steps=500,
    generator=dict(width=384, depth=12, num_heads=6),
    generator_batch=512,
    generator_rate=3e-4,
    budgets=(1000, 2000),
    num_samples=4800,
    precision="bfloat16",
)
SMOKE = dataclasses.replace(
    LAPTOP,
    encoder=vit(48, 1),
    data=dataclasses.replace(SCENES, num_train=4800, num_validation=480),
    latent_width=16,
    tokenizer_steps=6,
    warmup_steps=1,
    pca_warmup_steps=1,
    decoder_steps=6,
    generator=dict(width=32, depth=1, num_heads=1),
    budgets=(3, 6),
    num_samples=480,
)
RECIPES: Mapping[Scale, Recipe] = {
    "smoke": SMOKE,
    "laptop": LAPTOP,
    "workstation": WORKSTATION,
    "accelerator": ACCELERATOR,
}


def run(
    recipe: Recipe,
    method: str,
    setting: str,
    seed: int,
    *,
    objectives: Method | None = None,
    **changes: Any,
) -> RunSpec:
    """One run: a tokenizer of a method, and the generator trained on its latents.

    `setting` is what tables and figures call the run's place on the curve of its
    method, `objectives` are in place of those of `METHODS`, and `changes` replace
    values of the recipe.
    """
    how = objectives or METHODS[method]
    recipe = dataclasses.replace(recipe, **changes)
    pretrain = pretrain_config(recipe, how, seed)
    decode = DecodeConfig(
        decoder=recipe.decoder,
        reconstruction=PIXELS,
        optimizer=_optimizer(recipe.tokenizer_rate, recipe.decoder_steps),
        latent_noise=how.decoder_noise,
        noise_law="uniform" if how.decoder_noise > 0 else "fixed",
        linear_start=False,
        ema_decay=0.99,
        batch_size=recipe.pixels,
        num_steps=recipe.decoder_steps,
        precision=recipe.precision,
        seed=seed,
    )
    last = recipe.budgets[-1]
    tokenizer = pretrain.tokenizer
    if how.adapter is not None:
        tokenizer = adapted_config(tokenizer, how.adapter)
    # Labels that the data do not have are refused by `RunSpec`.
    num_labels = data_kind(recipe.data).num_labels.get(recipe.labels, 1)
    vision = None
    if pretrain.vision_widths:
        vision = pretrain_config(recipe, METHODS["CLIP+SSL"], seed)
    return RunSpec(
        method=method,
        setting=setting,
        data=recipe.data,
        tokenizer_images=recipe.tokenizer_images,
        gradient_batches=recipe.gradient_batches,
        pretrain=pretrain,
        decode=decode if recipe.decoder_steps > 0 else None,
        generate=GenerateConfig(
            dit=dit_for(tokenizer, num_labels, **recipe.generator, remat="dots"),
            # Constant, so that one training is that of every budget.
            optimizer=_optimizer(recipe.generator_rate, last, schedule="constant"),
            time_mean=0.0,
            time_std=1.0,
            ema_decay=recipe.generator_ema,
            ema_warmup=True,
            repulsion=(
                RepulsionConfig(weight=how.repulsion, width=32, bank_size=BANK_SIZE)
                if how.repulsion > 0
                else RepulsionConfig()
            ),
            batch_size=recipe.generator_batch,
            num_steps=last,
            precision=recipe.precision,
            seed=seed,
        ),
        sampler=SamplerConfig(
            solver="heun", num_steps=10, time_shift=0.0, guidance=recipe.guidance
        ),
        num_samples=recipe.num_samples,
        labels=recipe.labels,
        budgets=recipe.budgets,
        rotation=seed if how.rotated else None,
        one_scaling_factor=how.one_scaling_factor,
        vision=vision,
        adapter=how.adapter,
    )


def pretrain_config(recipe: Recipe, method: Method, seed: int) -> PretrainConfig:
    """One tokenizer; for what a method leaves out it has no heads."""
    size = recipe.data.size
    views = dataclasses.replace(
        VIEWS, global_size=size, local_size=size // 2, blur_radius=size // 16
    )
    rate, warmup_steps = (
        (recipe.pca_rate, recipe.pca_warmup_steps)
        if method.start == "pca"
        else (recipe.tokenizer_rate, recipe.warmup_steps)
    )
    return PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=recipe.encoder,
            decoder=recipe.decoder,
            text=recipe.text if method.contrast > 0 else None,
            image_size=size,
            patch_size=recipe.patch_size,
            latent_width=recipe.latent_width // method.narrower,
            latent_init="orthogonal",
            latent_norm=method.latent_norm,
            readout_layers=method.readout_layers,
            heads_input=method.heads_input,
            contrast_feature="pooled",
        ),
        prototypes=PROTOTYPES if method.distillation > 0 else None,
        views=views,
        distillation=DistillationConfig(
            momentum=(0.99, 1.0), teacher_temperature=(0.04, 0.04)
        ),
        reconstruction=PIXELS,
        alignment=(
            AlignmentConfig(
                width=recipe.encoder.width,
                cosine_weight=method.alignment_cosine,
                weighting=method.alignment_weighting,
            )
            if method.alignment > 0
            else AlignmentConfig()
        ),
        flow_distillation=(
            FlowDistillationConfig(
                weight=method.flow_distillation,
                target=method.flow_target,
                width=recipe.encoder.width,
                # RecTok's has a quarter of the encoder's blocks and of its width.
                decoder=vit(48, 1),
            )
            if method.flow_distillation > 0
            else FlowDistillationConfig()
        ),
        optimizer=_optimizer(
            rate, recipe.tokenizer_steps, warmup_steps=warmup_steps, weight_decay=0.05
        ),
        contrast_weight=method.contrast,
        distillation_weight=method.distillation,
        reconstruction_weight=method.reconstruction,
        smoothness_weight=method.smoothness * method.reconstruction,
        latent_noise=method.latent_noise,
        alignment_weight=method.alignment,
        controls=method.controls,
        weighting=method.weighting,
        distillation_drop=0.0,
        pca_start=method.start == "pca",
        num_steps=recipe.tokenizer_steps if method.trained else 0,
        seed=seed,
        batch_size=recipe.pairs,
        distillation_batch=recipe.distilled,
        reconstruction_batch=recipe.pixels,
        precision=recipe.precision,
    )


def compute_matched_steps(recipe: Recipe, method: str) -> int:
    """The steps of `method` that take the FLOPs of VTP by this recipe."""
    joint, own = (
        train_flops(pretrain_config(recipe, METHODS[name], 0))
        for name in ("VTP", method)
    )
    return round(recipe.tokenizer_steps * joint / own)


def _optimizer(rate: float, num_steps: int, **changes: Any) -> OptimizerConfig:
    """AdamW for a short training of a small network."""
    warmup_steps = min(100, num_steps // 2)
    values = dict(warmup_steps=warmup_steps, b2=0.95, eps=1e-8, weight_decay=0.0)
    return OptimizerConfig(learning_rate=rate, **{**values, **changes})
