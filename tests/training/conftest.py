"""The smallest pre-training that has every part, and a smaller training; their data."""

from collections.abc import Callable, Iterator
import functools
import itertools
from typing import NamedTuple

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
import numpy as np
import optax
import pytest

from vtp_eqx.config import (
    decoder_like,
    OptimizerConfig,
    PretrainConfig,
    PrototypeConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
    ViewsConfig,
)
from vtp_eqx.data import loader
from vtp_eqx.losses.contrastive import clip_loss
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.losses.weighting import LearnedWeights
from vtp_eqx.mesh import DATA, data_mesh, replicate, shard_batch
from vtp_eqx.nn.linear import Linear
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import copy_arrays, shard_state, TrainState
from vtp_eqx.training.step import make_step, Step


def tiny_config() -> PretrainConfig:
    """All three terms, 16 patches, and no random choice that differs by device."""
    encoder = TransformerConfig(width=16, depth=1, num_heads=2)
    return PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=encoder,
            decoder=decoder_like(encoder),
            text=TextConfig(context=6, vocabulary=20, width=8, depth=1, num_heads=2),
            image_size=16,
            patch_size=4,
            latent_width=4,
        ),
        prototypes=PrototypeConfig(
            num_prototypes=16, hidden_width=8, bottleneck_width=4, num_layers=2
        ),
        views=ViewsConfig(global_size=16, local_size=8, num_local=1),
        optimizer=OptimizerConfig(warmup_steps=1),
        batch_size=16,
        distillation_batch=8,
        reconstruction_batch=8,
        distillation_drop=0.0,
        num_steps=4,
    )


def smooth_images() -> dict[str, np.ndarray]:
    """Images of smooth color, so that patches say something of one another."""
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 255, (32, 2, 2, 3))
    along = np.linspace(0, 1, 16)
    ends = np.stack([1 - along, along])
    image = np.einsum("nijc,iy,jx->nyxc", corners, ends, ends)
    caption = draw.integers(1, 18, (32, 6))
    caption[:, 5] = 19  # the end token has the largest id
    return {
        "image": image.astype(np.uint8),
        "caption": caption.astype(np.int32),
    }


@pytest.fixture(scope="session")
def tiny() -> PretrainConfig:
    return tiny_config()


@pytest.fixture(scope="session")
def data() -> dict[str, np.ndarray]:
    return smooth_images()


class Started(NamedTuple):
    """A pre-training on one device that many tests share: it compiles but once."""

    config: PretrainConfig
    mesh: Mesh
    start: Callable[[], TrainState]  # a new first state: a step donates what it gets
    step: Step
    batches: Callable[[int], Iterator[CaptionedBatch]]


@functools.cache  # once for the fixtures of `tests/training` and `tests/runs`
def init_on_one_device(config: PretrainConfig) -> tuple[TrainState, Step]:
    assert not config.pca_start  # which would need images
    return init_pretraining(config, np.zeros((0, 16, 16, 3), np.uint8), data_mesh(1))


@pytest.fixture(scope="session")
def started(tiny, data) -> Started:
    mesh = data_mesh(1)
    state, step = init_on_one_device(tiny)
    batches = functools.partial(captioned, tiny, data)
    start = lambda: replicate(copy_arrays(state), mesh)
    return Started(tiny, mesh, start, step, batches)


def captioned(config, data, first):
    for batch in loader.batches(
        data, config.batch_size, seed=config.seed, start_step=first
    ):
        yield CaptionedBatch(batch["image"], batch["caption"])


BATCH, WIDTH = 16, 24


class Pairs(eqx.Module):
    """Two towers of one layer; contrast looks at the whole batch."""

    image: Linear
    text: Linear
    log_scale: jax.Array


def pairs_objective() -> Objective:
    def see(student, teacher, views, step, key):
        image, text = student.image(views["image"]), student.text(views["text"])
        error = (image - views["target"]) ** 2
        embedded = lambda rows: unit_norm(rows.astype(jnp.float32))
        return {
            "image": embedded(image), "text": embedded(text), "error": error.mean(-1)
        }  # fmt: skip

    def terms(student, seen):
        contrast = clip_loss(
            seen["image"], seen["text"], log_scale=student.log_scale, axis_name=DATA
        )
        return {"contrast": contrast, "error": seen["error"]}, {"seen": seen["error"]}

    def teach(teacher, views, step):
        # Its mean over the batch is what no microbatch knows by itself.
        said = teacher.image(views["image"])
        mean = lax.pmean(said.mean(axis=(0, 1)), DATA)
        return {**views, "target": said - mean}

    return Objective(lambda batch, key: batch, see, terms, teach)


def pairs_batches(poisoned: int | None, spiking: int | None):
    """Random pairs without end; in two of the batches, something is wrong."""
    for number in itertools.count():
        draw = np.random.default_rng(number)
        image, text = draw.standard_normal((2, BATCH, WIDTH)).astype(np.float32)
        if number == poisoned:
            image[3, 3] = np.nan
        yield {"image": image * (1000 if number == spiking else 1), "text": text}


def of_this_process(rows: np.ndarray) -> np.ndarray:
    return np.split(rows, jax.process_count())[jax.process_index()]


def pairs_state(optimizer: optax.GradientTransformation) -> TrainState:
    image_key, text_key, teacher_key = jr.split(jr.key(0), 3)
    tower = lambda key: Linear(WIDTH, 8, std=0.5, key=key)
    student = Pairs(tower(image_key), tower(text_key), jnp.ones((), jnp.float32))
    teacher = eqx.tree_at(lambda pairs: pairs.image, student, tower(teacher_key))
    weights = LearnedWeights({"contrast": 1.0, "error": 0.5})
    return TrainState.start(
        student, copy_arrays(teacher), weights, optimizer, key=jr.key(1)
    )


def pairs_training(
    num_devices: int, *, num_steps=3, sharding="none", poisoned=None, spiking=None,
    **how,
):  # fmt: skip
    """The state before and after some steps, and the metrics of each."""
    mesh, optimizer = data_mesh(num_devices), optax.adamw(0.01, eps=1e-3)
    state = shard_state(pairs_state(optimizer), mesh, sharding)
    step = make_step(
        state, pairs_objective(), optimizer, mesh,
        momentum=lambda step: jnp.asarray(0.9, jnp.float32),
        ema_source=lambda student: student, sharding=sharding, **how,
    )  # fmt: skip
    before, logged = copy_arrays(state), []
    for batch in itertools.islice(pairs_batches(poisoned, spiking), num_steps):
        state, metrics = step(
            state, shard_batch(jax.tree.map(of_this_process, batch), mesh)
        )
        logged.append({name: float(value) for name, value in metrics.items()})
    return before, state, logged


@pytest.fixture(scope="session")
def pairs() -> Callable:
    """`pairs_training`, with all its arguments."""
    return pairs_training
