"""Pre-training a tokenizer: contrast, self-distillation and reconstruction at once.

What is learned, the first state, and the step.
"""

from collections.abc import Iterable
import functools
import operator
import zlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
import numpy as np

from vtp_eqx.config import PretrainConfig, require, TextConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import FixedWeights, LearnedWeights
from vtp_eqx.models.tokenizer import Pretrainer, Teacher
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.optimizer import cosine, make_optimizer
from vtp_eqx.training.pca_start import start_from_pca
from vtp_eqx.training.pretrain_views import Needs, pretrain_views, PretrainViews
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step, Step
from vtp_eqx.training.terms.alignment import Alignment, VisionFeatures
from vtp_eqx.training.terms.continuity import Continuity
from vtp_eqx.training.terms.contrast import Contrast
from vtp_eqx.training.terms.encoder_passes import EncoderPasses
from vtp_eqx.training.terms.equivariance import RotationEquivariance, ScaleEquivariance
from vtp_eqx.training.terms.flow_distillation import FlowDistillation
from vtp_eqx.training.terms.kl import KL
from vtp_eqx.training.terms.local_correlation import LocalCorrelation
from vtp_eqx.training.terms.reconstruction import Reconstruction
from vtp_eqx.training.terms.self_distillation import SelfDistillation
from vtp_eqx.training.terms.smoothness import Smoothness
from vtp_eqx.training.terms.term import compose, PretrainTerm


def init_pretraining(
    config: PretrainConfig,
    images: np.ndarray,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a pre-training, and its compiled step.

    `images` are what the linear start is solved on, where `config` asks for it;
    `perceptual` and `vision`: see `pretrain_terms`.
    """
    state = shard_state(initial_state(config, images), mesh, config.sharding)
    return state, pretrain_step(config, state, mesh, perceptual, vision)


def initial_state(config: PretrainConfig, images: np.ndarray | None) -> TrainState:
    """The state before the first step.

    The linear start is left out where there are no `images` to solve it on, which
    changes no shape.
    """
    model_key, run_key = jr.split(jr.key(config.seed))
    terms = pretrain_terms(config)
    has_teacher = any(term.has_teacher for term in terms)
    prototypes = config.prototypes if has_teacher else None
    optimizer = make_optimizer(config.optimizer, config.num_steps)

    def make(key: PRNGKeyArray) -> Pretrainer:
        # By name, so that a head starts the same whatever else is learned.
        own_key = lambda term: jr.fold_in(key, zlib.crc32(term.name.encode()))
        heads = {term.name: term.make_head(own_key(term)) for term in terms}
        return Pretrainer(config.tokenizer, prototypes, heads, key=key)

    def start(student: Pretrainer, key: PRNGKeyArray) -> TrainState:
        student, teacher = copy_arrays(student), copy_arrays(Teacher.of(student))
        return TrainState.start(
            student, teacher, loss_weights(config), optimizer, key=key
        )

    # One compilation in place of hundreds of small ones.
    if config.pca_start and images is not None:
        student = eqx.filter_jit(make)(model_key)
        tokenizer = start_from_pca(student.tokenizer, images)
        student = eqx.tree_at(lambda student: student.tokenizer, student, tokenizer)
        return eqx.filter_jit(start)(student, run_key)
    both = lambda model_key, run_key: start(make(model_key), run_key)
    return eqx.filter_jit(both)(model_key, run_key)


def pretrain_step(
    config: PretrainConfig,
    state: TrainState,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> Step:
    """The compiled step of a pre-training; of `state` only the structure is used."""
    start, end = config.distillation.momentum
    balances = [term.balance for term in pretrain_terms(config)]
    return make_step(
        state,
        pretrain_objective(
            config, num_shards=mesh.devices.size, perceptual=perceptual, vision=vision
        ),
        make_optimizer(config.optimizer, config.num_steps),
        mesh,
        momentum=lambda step: cosine(start, end, step / config.num_steps),
        ema_source=Teacher.of,
        constrain=clamp_logit_scale,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
        balance=next(filter(None, balances), None),
    )


def loss_weights(config: PretrainConfig) -> FixedWeights | LearnedWeights:
    """The weights of the terms that are not left out, fixed or learned from there."""
    used = config.term_weights
    return FixedWeights(used) if config.weighting == "fixed" else LearnedWeights(used)


def pretrain_terms(
    config: PretrainConfig,
    *,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> tuple[PretrainTerm, ...]:
    """The loss terms of a pre-training, without those whose weight is 0.

    Their networks, which learn nothing, are needed for training alone: `perceptual`,
    that of LPIPS, and `vision`, which latents are aligned with, where these have a
    weight.
    """
    terms = (
        Contrast(config),
        SelfDistillation(config),
        Smoothness(config),
        Reconstruction(config, perceptual),
        Alignment(config, vision),
        FlowDistillation(config, vision),
        KL(config),
        ScaleEquivariance(config, perceptual),
        RotationEquivariance(config, perceptual),
        Continuity(config, perceptual),
        LocalCorrelation(config),
    )
    return tuple(term for term in terms if term.name in config.term_weights)


def pretrain_objective(
    config: PretrainConfig,
    *,
    num_shards: int,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> Objective:
    """Contrast + self-distillation + reconstruction (VTP section 3).

    Or what else has a weight. Every term is that of the whole batch, however many
    devices share it and in however many microbatches (`config.accumulate`) each splits
    its rows. `perceptual` and `vision`: see `pretrain_terms`; a `ValueError` where one
    is missing.
    """
    terms = pretrain_terms(config, perceptual=perceptual, vision=vision)
    for term in terms:
        require(
            term.batch_size % (num_shards * config.accumulate) == 0,
            f"`{term.batch}` must divide evenly over devices and microbatches; got "
            f"{term.batch_size} images on {num_shards} devices in {config.accumulate} "
            "microbatches each: change it, use fewer devices or lower `accumulate`.",
        )
        term.check()
    needs = needs_of(terms)

    def make_passes(
        student: Pretrainer, views: PretrainViews, key: PRNGKeyArray
    ) -> EncoderPasses:
        return EncoderPasses(
            student.tokenizer, views, config, needs, heads=student.heads, key=key
        )

    make_views = pretrain_views(config, needs, {term.name: term.draw for term in terms})
    return compose(terms, make_views, make_passes=make_passes)


def needs_of(terms: Iterable[PretrainTerm]) -> Needs:
    """The views that some of the terms need."""
    return functools.reduce(operator.or_, (term.needs for term in terms), Needs(0))


def text_config(config: PretrainConfig) -> TextConfig | None:
    """The text tower whose captions a term reads; `None` where none does."""
    has_pairs = Needs.PAIRS in needs_of(pretrain_terms(config))
    return config.tokenizer.text if has_pairs else None


def clamp_logit_scale(student: Pretrainer) -> Pretrainer:
    """`student` with its logit multiplier between 1 and 100 (OpenCLIP)."""
    scale = student.tokenizer.logit_scale
    return eqx.tree_at(
        lambda student: student.tokenizer.logit_scale,
        student,
        jnp.clip(scale, 0, jnp.log(100.0).astype(scale.dtype)),
    )
