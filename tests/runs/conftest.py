"""The trainings of `tests/training`, a tokenizer that compiles at once, and images."""

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from tests.training.conftest import data, pairs, started, tiny
from vtp_eqx.config import decoder_like, TokenizerConfig, TransformerConfig
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.log import read_log


__all__ = ["data", "pairs", "started", "tiny"]
TIMED = {"seconds", "images_per_second", "data_wait", "seconds_left"}


def metrics_of(folder):
    """The log of a run, but for what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in TIMED}
        for line in read_log(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """An untrained tokenizer: latents of 2 x 2 x 4 from 16 pixels, not measured."""
    encoder = TransformerConfig(width=16, depth=1, num_heads=2)
    config = TokenizerConfig(
        encoder=encoder, decoder=decoder_like(encoder),
        image_size=16, patch_size=8, latent_width=4,
    )  # fmt: skip
    return eqx.filter_jit(Tokenizer)(config, key=jr.key(0))


@pytest.fixture(scope="session")
def images() -> ArraySource:
    """Twenty-two images of five classes."""
    draw = np.random.default_rng(0)
    return ArraySource(
        {
            "image": draw.integers(0, 256, (22, 16, 16, 3)).astype(np.uint8),
            "label": np.arange(22) % 5,
        }
    )
