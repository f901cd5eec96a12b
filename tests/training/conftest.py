"""The smallest pre-training that has every part, and data for it."""

from collections.abc import Callable, Iterator
import functools
from typing import NamedTuple

from jax.sharding import Mesh
import numpy as np
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
from vtp_eqx.mesh import data_mesh, replicate
from vtp_eqx.training.pretrain import pretraining
from vtp_eqx.training.pretrain_views import Captioned
from vtp_eqx.training.run import Step
from vtp_eqx.training.state import copied, TrainState


@pytest.fixture(scope="session")
def tiny() -> PretrainConfig:
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


@pytest.fixture(scope="session")
def data() -> dict[str, np.ndarray]:
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


class Started(NamedTuple):
    """A pre-training on one device that many tests share: it compiles but once."""

    config: PretrainConfig
    mesh: Mesh
    start: Callable[[], TrainState]  # a new first state: a step donates what it gets
    step: Step
    batches: Callable[[int], Iterator[Captioned]]


@pytest.fixture(scope="session")
def started(tiny, data) -> Started:
    mesh = data_mesh(1)
    state, step = pretraining(tiny, data["image"], mesh)
    batches = functools.partial(captioned, tiny, data)
    start = lambda: replicate(copied(state), mesh)
    return Started(tiny, mesh, start, step, batches)


def captioned(config, data, first):
    for batch in loader.batches(
        data, config.batch_size, seed=config.seed, start_step=first
    ):
        yield Captioned(batch["image"], batch["caption"])
