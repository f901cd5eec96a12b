"""Pre-training a tokenizer: from images and captions to a `Tokenizer`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
import zlib

import equinox as eqx
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
import numpy as np

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.data.loader import batches
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.weighting import FixedWeights, LearnedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.training.loop import Progress, run_training, Step
from vtp_eqx.training.optimizer import cosine, make_optimizer
from vtp_eqx.training.pca_start import start_from_pca
from vtp_eqx.training.pretrain_objective import (
    clamp_logit_scale,
    pretrain_objective,
    pretrain_terms,
    text_config,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step
from vtp_eqx.training.terms.alignment import VisionFeatures


PCA_IMAGES = 2048  # images that the linear start is solved on


def pretrain(
    config: PretrainConfig,
    data: Mapping[str, np.ndarray],
    *,
    folder: Path,
    group: int = 1,
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> Tokenizer:
    """The tokenizer that `config` learns from `data`.

    - `data`: `image`, uint8 `[num, height, width, 3]`, and `caption`, int32
      `[num, context]`, which only contrast needs.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `group`: this many consecutive examples stay together in a batch.
    - `perceptual`: the network of LPIPS, where that has a weight.
    - `vision`: the frozen network that latents are aligned with, where that has a
      weight.

    Latent statistics are not measured here.
    """
    check_data(config, data)
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_pretraining(
        config, data["image"][:PCA_IMAGES], mesh, perceptual, vision
    )
    names = ["image"] if text_config(config) is None else ["image", "caption"]
    arrays = {name: data[name] for name in names}

    def captioned(first: int) -> Iterator[CaptionedBatch]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first, group=group
        ):
            yield CaptionedBatch(batch["image"], batch.get("caption"))

    state = run_training(
        state, step, captioned,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
    )  # fmt: skip
    return state.student.tokenizer


def init_pretraining(
    config: PretrainConfig,
    images: np.ndarray,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
    vision: VisionFeatures | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a pre-training, and its compiled step.

    `images` are what the linear start is solved on, where `config` asks for it, and
    `perceptual` is the network of LPIPS and `vision` the one that latents are aligned
    with, where these have a weight.
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
        student = copy_arrays(student)
        teacher = None if prototypes is None else Teacher.of(student)
        return TrainState.start(
            student, teacher, loss_weights(config), optimizer, key=key
        )

    # One compilation in place of hundreds of small ones.
    if config.pca_start and images is not None:
        student = eqx.filter_jit(make)(model_key)
        tokenizer = start_from_pca(student.tokenizer, images)
        return eqx.filter_jit(start)(with_tokenizer(student, tokenizer), run_key)
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
    return make_step(
        state,
        pretrain_objective(
            config, num_shards=mesh.devices.size, perceptual=perceptual, vision=vision
        ),
        make_optimizer(config.optimizer, config.num_steps),
        mesh,
        momentum=lambda step: cosine(start, end, step / config.num_steps),
        ema_source=_ema_source,
        constrain=clamp_logit_scale,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
    )


def loss_weights(config: PretrainConfig) -> FixedWeights | LearnedWeights:
    """The weights of the terms that are not left out, fixed or learned from there."""
    used = config.term_weights
    return FixedWeights(used) if config.weighting == "fixed" else LearnedWeights(used)


def check_data(config: PretrainConfig, data: Mapping[str, np.ndarray]) -> None:
    """Raises `ValueError` where `data` is not what `config` needs."""
    image, size = data["image"], config.tokenizer.image_size
    require(
        image.dtype == np.uint8 and image.ndim == 4 and image.shape[-1] == 3,
        "Training images must be uint8 of shape [num, height, width, 3]; got "
        f"{image.dtype} {list(image.shape)}: convert them.",
    )
    require(
        min(image.shape[1:3]) >= size,
        f"Training images must have at least `image_size` pixels a side; got "
        f"{image.shape[1]} x {image.shape[2]} for {size}: enlarge them or lower it.",
    )
    text = text_config(config)
    if text is not None:
        context, vocabulary = text.context, text.vocabulary
        caption = data.get("caption")
        require(
            caption is not None and caption.shape == (len(image), context),
            f"Contrast needs `caption` ids of shape {[len(image), context]}; got "
            f"{None if caption is None else list(caption.shape)}: encode the captions.",
        )
        assert caption is not None
        require(
            int(caption.max()) < vocabulary,
            f"Caption ids must lie below the text tower's vocabulary of {vocabulary}; "
            f"got {int(caption.max())}: use the vocabulary they were made with.",
        )


def with_tokenizer(student: Pretrainer, tokenizer: Tokenizer) -> Pretrainer:
    """`student` with another tokenizer."""
    return eqx.tree_at(lambda student: student.tokenizer, student, tokenizer)


def _ema_source(student: Pretrainer) -> Teacher | None:
    """The student's parts that the teacher is a moving average of."""
    if student.prototypes is None:
        return None
    tokenizer = student.tokenizer
    return Teacher(
        tokenizer.encoder, tokenizer.bottleneck, student.prototypes, tokenizer.config
    )
