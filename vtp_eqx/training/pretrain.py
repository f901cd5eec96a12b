"""Pre-training a tokenizer: from images and captions to a `Tokenizer`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import equinox as eqx
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
import numpy as np

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.data.loader import batches
from vtp_eqx.losses.weighting import FixedWeights, LearnedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.perceptual import Perceptual
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.training.optimizer import cosine, make_optimizer
from vtp_eqx.training.pca_start import start_from_pca
from vtp_eqx.training.pretrain_objective import clamped, pretrain_objective
from vtp_eqx.training.pretrain_views import Captioned
from vtp_eqx.training.run import Progress, run, Step
from vtp_eqx.training.state import copied, placed, TrainState
from vtp_eqx.training.step import make_step


PCA_IMAGES = 2048  # images that the linear start is solved on


def pretrain(
    config: PretrainConfig,
    data: Mapping[str, np.ndarray],
    *,
    folder: Path,
    group: int = 1,
    mesh: Mesh | None = None,
    perceptual: Perceptual | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> Tokenizer:
    """The tokenizer that `config` learns from `data`.

    - `data`: `image`, uint8 `[num, height, width, 3]`, and `caption`, int32
      `[num, context]`, which only contrast needs.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `group`: this many consecutive examples stay together in a batch.
    - `perceptual`: the network of LPIPS, where that has a weight.

    Latent statistics are not measured here.
    """
    check_data(config, data)
    mesh = data_mesh() if mesh is None else mesh
    state, step = pretraining(config, data["image"][:PCA_IMAGES], mesh, perceptual)
    names = ["image", "caption"] if config.contrast_weight > 0 else ["image"]
    arrays = {name: data[name] for name in names}

    def captioned(first: int) -> Iterator[Captioned]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first, group=group
        ):
            yield Captioned(batch["image"], batch.get("caption"))

    state = run(
        state, step, captioned,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
    )  # fmt: skip
    return state.student.tokenizer


def pretraining(
    config: PretrainConfig,
    images: np.ndarray,
    mesh: Mesh,
    perceptual: Perceptual | None = None,
) -> tuple[TrainState, Step]:
    """The first state of a pre-training, and its compiled step.

    `images` are what the linear start is solved on, where `config` asks for it, and
    `perceptual` is the network of LPIPS, where that has a weight.
    """
    state = placed(first_state(config, images), mesh, config.sharding)
    return state, pretrain_step(config, state, mesh, perceptual)


def first_state(config: PretrainConfig, images: np.ndarray | None) -> TrainState:
    """The state before the first step.

    The linear start is left out where there are no `images` to solve it on, which
    changes no shape.
    """
    model_key, run_key = jr.split(jr.key(config.seed))
    prototypes = config.prototypes if config.distillation_weight > 0 else None
    optimizer = make_optimizer(config.optimizer, config.num_steps)

    def make(key: PRNGKeyArray) -> Pretrainer:
        return Pretrainer(config.tokenizer, prototypes, key=key)

    def start(student: Pretrainer, key: PRNGKeyArray) -> TrainState:
        student = copied(student)
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
) -> Step:
    """The compiled step of a pre-training; of `state` only the structure is used."""
    start, end = config.distillation.momentum
    return make_step(
        state,
        pretrain_objective(config, num_shards=mesh.devices.size, perceptual=perceptual),
        make_optimizer(config.optimizer, config.num_steps),
        mesh,
        momentum=lambda step: cosine(start, end, step / config.num_steps),
        followed=_taught,
        constrain=clamped,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
    )


def loss_weights(config: PretrainConfig) -> FixedWeights | LearnedWeights:
    """The weights of the terms that are not left out, fixed or learned from there."""
    weights = {
        "contrast": config.contrast_weight,
        "distillation": config.distillation_weight,
        "reconstruction": config.reconstruction_weight,
        "smoothness": config.smoothness_weight,
    }
    used = {name: weight for name, weight in weights.items() if weight > 0}
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
    if config.contrast_weight > 0:
        assert config.tokenizer.text is not None
        context, vocabulary = (
            config.tokenizer.text.context,
            config.tokenizer.text.vocabulary,
        )
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


def _taught(student: Pretrainer) -> Teacher | None:
    """The student's parts that the teacher is a moving average of."""
    if student.prototypes is None:
        return None
    tokenizer = student.tokenizer
    return Teacher(
        tokenizer.encoder, tokenizer.bottleneck, student.prototypes, tokenizer.config
    )
