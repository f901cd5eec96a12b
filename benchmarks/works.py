"""Programs to time: steps of trainings, sampling, encoding; and how they are timed."""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh, NamedSharding
import numpy as np

from vtp_eqx.config import (
    DiTConfig,
    GenerateConfig,
    OptimizerConfig,
    PretrainConfig,
    PrototypeConfig,
    published,
    SamplerConfig,
    TextConfig,
    TokenizerConfig,
    ViewsConfig,
    VIT_FEMTO,
)
from vtp_eqx.flow import euler, heun, sample, time_grid
from vtp_eqx.frozen.lpips import blank_perceptual, Perceptual
from vtp_eqx.mesh import REPLICATED
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import guided_velocity
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.training.flops import generator_flops, train_flops
from vtp_eqx.training.generate import init_generator_training, LatentBatch
from vtp_eqx.training.parameter_counts import decoder_flops, encoder_flops
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain import (
    initial_state,
    needs_of,
    pretrain_step,
    pretrain_terms,
    text_config,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch, pretrain_views


OBJECTIVES = ("contrast", "distillation", "reconstruction")
SMALL_DIT = DiTConfig(
    width=48, depth=2, num_heads=2, latent_width=8, latent_size=4, num_classes=10
)
TIMED_SECONDS = 4.0  # of each program

Started = tuple[Any, Any]  # arguments of the first call, and the jitted function


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


def joint(name: str, config: PretrainConfig, *, traced: bool = False) -> Work:
    """A pre-training step, from images on the device to the next state."""

    # Out here: made within `start`, its arrays would be shapes.
    perceptual = random_perceptual(config)

    def start(mesh: Mesh) -> Started:
        state = initial_state(config, None)
        step: Any = pretrain_step(config, state, mesh, perceptual)
        return (eqx.filter(state, eqx.is_array), random_batch(config)), step.compiled

    size = config.batch_size
    return Work(name, size, size, train_flops(config), start, traced=traced)


def views_alone(name: str, config: PretrainConfig) -> Work:
    """The views and masks of a step; an image counts as often as it is cropped."""
    prepare = pretrain_views(config, needs_of(pretrain_terms(config)))

    def start(mesh: Mesh) -> Started:
        return (random_batch(config), jr.key(1)), jax.jit(prepare)

    crops = config.distillation_batch * (2 + config.views.num_local)
    size = config.batch_size
    return Work(name, size, size + crops, 0.0, start, carries=False)


def generator_step(name: str, config: GenerateConfig, *, traced: bool = False) -> Work:
    """A training step of a generator on latents on the device."""
    dit, batch = config.dit, config.batch_size

    def start(mesh: Mesh) -> Started:
        state, step = init_generator_training(config, mesh)
        arrays = eqx.filter(state, eqx.is_array)
        return (arrays, random_latents(dit, batch)), step.compiled

    flops = 3.0 * batch * generator_flops(dit)
    return Work(name, batch, batch, flops, start, traced=traced)


def sampling(name: str, config: GenerateConfig, sampler: SamplerConfig) -> Work:
    """Samples without guidance; an image counts as whole after all evaluations."""
    dit, batch = config.dit, config.batch_size
    solver, calls = {"euler": (euler, 1), "heun": (heun, 2)}[sampler.solver]
    evaluations = calls * sampler.num_steps

    def start(mesh: Mesh) -> Started:
        model = cast_params(DiT(dit, key=jr.key(0)), config.precision)
        arrays, static = eqx.partition(model, eqx.is_array)
        latents = random_latents(dit, batch)

        @jax.jit
        def run(arrays, labels, noise):
            velocity = guided_velocity(eqx.combine(arrays, static), labels, sampler)
            return sample(velocity, noise, time_grid(sampler.num_steps), solver)

        return (arrays, latents.condition, latents.latents), run

    flops = float(batch * evaluations * generator_flops(dit))
    name = f"{name}, {evaluations} evaluations"
    return Work(name, batch, batch, flops, start, carries=False)


def coding(config: TokenizerConfig, batch: int) -> list[Work]:
    """Encoding and decoding a batch of images."""
    grid = config.image_size // config.patch_size
    image = (batch, config.image_size, config.image_size, 3)
    latents = (batch, grid, grid, config.latent_width)

    def work(name: str, shape: tuple[int, ...], flops: float) -> Work:
        def start(mesh: Mesh) -> Started:
            tokenizer = Tokenizer(config, key=jr.key(0))
            arrays, static = eqx.partition(tokenizer, eqx.is_array)
            run = lambda arrays, rows: jax.vmap(
                getattr(eqx.combine(arrays, static), name)
            )(rows)
            return (arrays, jr.uniform(jr.key(1), shape)), jax.jit(run)

        return Work(name, batch, batch, batch * flops, start, carries=False)

    return [
        work("encode", image, encoder_flops(config, config.image_size)),
        work("decode", latents, decoder_flops(config)),
    ]


@dataclasses.dataclass
class Compiled:
    """A program ready to run."""

    start: Any
    step: Any
    seconds: float


def compiled(work: Work, mesh: Mesh) -> Compiled:
    """The first arguments of `work` as a program, and its step as another."""
    begun = time.monotonic()
    functions = []

    def start():
        arguments, function = work.start(mesh)
        functions.append(function)
        return arguments

    traced = jax.jit(start).trace()
    whole = NamedSharding(mesh, REPLICATED)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        traced.out_info,
    )
    step = functions[-1].lower(*shapes).compile()
    first = traced.lower().compile()
    return Compiled(first, step, time.monotonic() - begun)


def timed(
    work: Work, ready: Compiled, mesh: Mesh
) -> tuple[float, Callable[[], Any], dict[str, float]]:
    """Median seconds of a call, the call, and the metrics of the last one."""
    held = [jax.device_put(ready.start(), NamedSharding(mesh, REPLICATED))]

    def call() -> Any:
        found = ready.step(*held[0])
        if work.carries:
            held[0] = (found[0], *held[0][1:])
            found = found[1]
        return jax.block_until_ready(found)

    for _ in range(2):
        found = call()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < TIMED_SECONDS and len(seconds) < 50):
        begun = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - begun)
    numbers = found if isinstance(found, dict) else {}
    return float(np.median(seconds)), call, {k: float(v) for k, v in numbers.items()}


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
    uses_it = learns_pixels and config.reconstruction.uses_perceptual
    return _drawn_perceptual() if uses_it else None


def only(name: str, config: PretrainConfig) -> PretrainConfig:
    """`config` with one of its objectives alone."""
    others = {f"{other}_weight": 0.0 for other in OBJECTIVES if other != name}
    return dataclasses.replace(config, **others)


@functools.cache
def _drawn_perceptual() -> Perceptual:
    # Random and not zero: products of zeros take less power, and so less time.
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.05 * rng.standard_normal(leaf.shape, np.float32))
    return jax.tree.map(
        lambda leaf: draw(leaf) if eqx.is_inexact_array(leaf) else leaf,
        blank_perceptual(),
    )
