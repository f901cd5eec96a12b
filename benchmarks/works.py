"""The programs that `benchmarks.accelerator` times, in order of value."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import (
    Attention,
    DIT_B,
    DIT_XL,
    DiTConfig,
    GenerateConfig,
    OptimizerConfig,
    PretrainConfig,
    PrototypeConfig,
    published,
    SamplerConfig,
    TextConfig,
    ViewsConfig,
    VIT_FEMTO,
)
from vtp_eqx.config.presets import PRETRAIN_B, PRETRAIN_L, PRETRAIN_S, with_batch
from vtp_eqx.flow import euler, sample, time_grid
from vtp_eqx.frozen.lpips import blank_perceptual, Perceptual
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import guided_velocity
from vtp_eqx.training.flops import generator_flops, train_flops
from vtp_eqx.training.generate import init_generator_training, LatentBatch
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain import (
    initial_state,
    needs_of,
    pretrain_step,
    pretrain_terms,
    text_config,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch, pretrain_views


SMALL_DIT = DiTConfig(
    width=48, depth=2, num_heads=2, latent_width=8, latent_size=4, num_classes=10
)
SAMPLING_STEPS = 20  # the rate of one step counts


@dataclasses.dataclass
class Started:
    """Arguments of the first call, and the jitted function that takes them."""

    arguments: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Work:
    """One program: what it takes, what it does, and what that costs by formula.

    `start(mesh)` is traced, not run. `carries`: the function returns its next first
    argument and metrics.
    """

    name: str
    batch: int
    images: float  # of a call
    flops: float  # of a call
    start: Callable[[Mesh], Started]
    carries: bool = True
    traced: bool = False


def works(*, tiny: bool) -> list[Work]:
    """All programs; `tiny` ones compute in float32 and take a CPU minutes."""
    if tiny:
        small = small_config()
        dit = SMALL_DIT
        return [
            joint("joint step", small),
            generator_step("DiT step", dit, 8, "float32"),
            sampling("sampling DiT", dit, 8, "float32"),
            views_alone("views alone", small),
        ]
    s = _joint(PRETRAIN_S, 512)
    plain = _joint(PRETRAIN_S, 512, "plain")
    return [
        joint("VTP-S", s, traced=True),
        joint("VTP-B", _joint(PRETRAIN_B, 256)),
        joint("VTP-L", _joint(PRETRAIN_L, 256)),
        generator_step("DiT-XL", _remat(DIT_XL), 128, traced=True),
        generator_step("DiT-B", DIT_B, 256),
        sampling("sampling DiT-XL", DIT_XL, 128),
        sampling("sampling DiT-XL", DIT_XL, 512),
        views_alone("views of VTP-S alone", s),
        joint("VTP-S, plain attention", plain),
        generator_step("DiT-XL, plain attention", _remat(DIT_XL), 128, "plain"),
        joint("VTP-S, contrast only", _only("contrast", s)),
        joint("VTP-S, distillation only", _only("distillation", s)),
        joint("VTP-S, reconstruction only", _only("reconstruction", s)),
        sampling("sampling DiT-XL, plain attention", DIT_XL, 128, "plain"),
    ]


def joint(name: str, config: PretrainConfig, *, traced: bool = False) -> Work:
    """A pre-training step, from images on the device to the next state."""

    # Out here: made within `start`, its arrays would be shapes.
    perceptual = random_perceptual(config)

    def start(mesh: Mesh) -> Started:
        state = initial_state(config, None)
        step: Any = pretrain_step(config, state, mesh, perceptual)
        return Started(
            (eqx.filter(state, eqx.is_array), random_batch(config)), step.compiled
        )

    size = config.batch_size
    return Work(name, size, size, train_flops(config), start, traced=traced)


def views_alone(name: str, config: PretrainConfig) -> Work:
    """The views and masks of a step; an image counts as often as it is cropped."""
    prepare = pretrain_views(config, needs_of(pretrain_terms(config)))

    def start(mesh: Mesh) -> Started:
        return Started((random_batch(config), jr.key(1)), jax.jit(prepare))

    crops = config.distillation_batch * (2 + config.views.num_local)
    size = config.batch_size
    return Work(name, size, size + crops, 0.0, start, carries=False)


def generator_step(
    name: str, dit: DiTConfig, batch: int, attention: str = "fused", *, traced=False
) -> Work:
    """A training step of a generator on latents on the device."""
    dit, precision = _kind(dit, attention)
    config = GenerateConfig(dit=dit, batch_size=batch, precision=precision)

    def start(mesh: Mesh) -> Started:
        state, step = init_generator_training(config, mesh)
        return Started(
            (eqx.filter(state, eqx.is_array), random_latents(dit, batch)), step.compiled
        )

    flops = 3.0 * batch * generator_flops(dit)
    return Work(name, batch, batch, flops, start, traced=traced)


def sampling(name: str, dit: DiTConfig, batch: int, attention: str = "fused") -> Work:
    """Euler steps without guidance; an image counts as whole after all of them."""
    dit, precision = _kind(dit, attention)

    def start(mesh: Mesh) -> Started:
        model = cast_params(DiT(dit, key=jr.key(0)), precision)
        arrays, static = eqx.partition(model, eqx.is_array)
        latents = random_latents(dit, batch)

        @jax.jit
        def run(arrays, labels, noise):
            velocity = guided_velocity(
                eqx.combine(arrays, static), labels, SamplerConfig()
            )
            return sample(velocity, noise, time_grid(SAMPLING_STEPS), euler)

        return Started((arrays, latents.label, latents.latents), run)

    flops = float(batch * SAMPLING_STEPS * generator_flops(dit))
    return Work(
        f"{name}, {SAMPLING_STEPS} steps", batch, batch, flops, start, carries=False
    )


def small_config() -> PretrainConfig:
    """A pre-training with every objective that a CPU steps through at once."""
    return PretrainConfig(
        tokenizer=published(
            VIT_FEMTO,
            text=TextConfig(context=16, vocabulary=256, width=48, depth=2, num_heads=2),
            image_size=32, patch_size=8, latent_width=8,
        ),
        prototypes=PrototypeConfig(
            num_prototypes=64, hidden_width=32, bottleneck_width=16
        ),
        views=ViewsConfig(global_size=32, local_size=16, num_local=2),
        batch_size=16, distillation_batch=8, reconstruction_batch=8, num_steps=100,
        optimizer=OptimizerConfig(warmup_steps=0),
    )  # fmt: skip


def random_batch(config: PretrainConfig) -> CaptionedBatch:
    """Random images and words, as many as a step of `config` takes."""
    size, side = config.batch_size, config.tokenizer.image_size
    text = text_config(config)
    images = jr.randint(jr.key(3), (size, side, side, 3), 0, 256).astype(jnp.uint8)
    if text is None:
        return CaptionedBatch(images, None)
    words = jr.randint(jr.key(4), (size, text.context), 1, text.vocabulary)
    return CaptionedBatch(images, words)


def random_latents(dit: DiTConfig, batch: int) -> LatentBatch:
    """Random latents and labels for a generator."""
    shape = (batch, dit.latent_size, dit.latent_size, dit.latent_width)
    labels = jr.randint(jr.key(5), (batch,), 0, dit.num_classes)
    return LatentBatch(jr.normal(jr.key(6), shape), labels)


def random_perceptual(config: PretrainConfig) -> Perceptual | None:
    """LPIPS with random weights, where `config` learns from it."""
    learns_pixels = "reconstruction" in config.term_weights
    looks = learns_pixels and config.reconstruction.uses_perceptual
    return _drawn_perceptual() if looks else None


def _joint(
    config: PretrainConfig, batch: int, attention: Attention = "fused"
) -> PretrainConfig:
    kind = lambda part: dataclasses.replace(part, attention=attention)
    tokenizer = config.tokenizer
    tokenizer = dataclasses.replace(
        tokenizer, encoder=kind(tokenizer.encoder), decoder=kind(tokenizer.decoder)
    )
    return with_batch(config, batch, tokenizer=tokenizer, accumulate=1, sharding="none")


def _only(name: str, config: PretrainConfig) -> PretrainConfig:
    others = {"contrast", "distillation", "reconstruction"} - {name}
    return dataclasses.replace(config, **{f"{other}_weight": 0.0 for other in others})


def _remat(dit: DiTConfig) -> DiTConfig:
    return dataclasses.replace(dit, remat="dots")


def _kind(dit: DiTConfig, attention: str) -> tuple[DiTConfig, Any]:
    if attention == "float32":
        return dit, "float32"
    return dataclasses.replace(dit, attention=attention), "bfloat16"


@functools.cache
def _drawn_perceptual() -> Perceptual:
    # Random and not zero: products of zeros take less power, and so less time.
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.05 * rng.standard_normal(leaf.shape, np.float32))
    return jax.tree.map(
        lambda leaf: draw(leaf) if eqx.is_inexact_array(leaf) else leaf,
        blank_perceptual(),
    )
