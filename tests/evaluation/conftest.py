import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import TextConfig, TokenizerConfig, VIT_FEMTO
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.scenes.render import render, SceneConfig


@pytest.fixture(scope="session")
def tokenizer():
    """An untrained tokenizer with a text tower, for images of 32 x 32."""
    text = TextConfig(context=8, vocabulary=300, width=16, depth=1, num_heads=1)
    config = TokenizerConfig(
        encoder=VIT_FEMTO, decoder=VIT_FEMTO, text=text,
        image_size=32, patch_size=8, latent_width=8,
    )  # fmt: skip
    # Compiled as a whole: op by op it takes ten seconds.
    return eqx.filter_jit(Tokenizer)(config, key=jr.key(0))


@pytest.fixture
def place(tmp_path):
    """A new folder, for results of batches of 16 on one device."""
    return ExtractConfig(folder=tmp_path, batch_size=16, mesh=data_mesh(1))


@pytest.fixture(scope="session")
def scenes():
    """Forty-eight labelled scenes in memory."""
    found = render(SceneConfig(), np.arange(48))
    return ArraySource({"image": found.image, "label": found.label})
