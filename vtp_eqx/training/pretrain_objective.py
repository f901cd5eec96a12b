"""What a tokenizer learns: contrast, self-distillation and reconstruction at once."""

from collections.abc import Iterable
import functools
import operator

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from vtp_eqx.config import PretrainConfig, require, TextConfig
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.training.objective import Objective
from vtp_eqx.training.pretrain_views import Needs, pretrain_views, PretrainViews
from vtp_eqx.training.terms.alignment import Alignment, VisionFeatures
from vtp_eqx.training.terms.contrast import Contrast
from vtp_eqx.training.terms.encoder_passes import EncoderPasses
from vtp_eqx.training.terms.pretrain_term import PretrainTerm
from vtp_eqx.training.terms.reconstruction import Reconstruction
from vtp_eqx.training.terms.self_distillation import SelfDistillation
from vtp_eqx.training.terms.smoothness import Smoothness
from vtp_eqx.training.terms.term import compose


def pretrain_terms(
    config: PretrainConfig,
    *,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> tuple[PretrainTerm, ...]:
    """The loss terms of a pre-training, without those whose weight is 0.

    Their networks, which learn nothing, are needed for training alone: `perceptual`
    where LPIPS has a weight, `vision` where alignment has.
    """
    terms = (
        Contrast(config),
        SelfDistillation(config),
        Smoothness(config),
        Reconstruction(config, perceptual),
        Alignment(config, vision),
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
        _require_divisible(term.batch, term.batch_size, num_shards, config.accumulate)
        term.check()
    needs = needs_of(terms)

    def make_passes(
        student: Pretrainer, views: PretrainViews, key: PRNGKeyArray
    ) -> EncoderPasses:
        return EncoderPasses(student.tokenizer, views, config, needs, key=key)

    return compose(terms, pretrain_views(config, needs), make_passes=make_passes)


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


def _require_divisible(name: str, size: int, num_shards: int, accumulate: int) -> None:
    require(
        size % (num_shards * accumulate) == 0,
        f"`{name}` must divide evenly over devices and microbatches; got {size} images"
        f" on {num_shards} devices in {accumulate} microbatches each: change it, use "
        "fewer devices or lower `accumulate`.",
    )
