import dataclasses
import shutil

import equinox as eqx
import jax
import numpy as np
import pytest

from tests.runs.conftest import metrics_of
from tests.training.examples import encode, measured_tokenizer
from vtp_eqx.config import (
    AdversarialConfig,
    DiscriminatorConfig,
    FinetuneConfig,
    presets,
    ReconstructionConfig,
)
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.runs.finetune_decoder import (
    collapse_sink,
    EncodedImages,
    finetune_decoder,
)
from vtp_eqx.tokenizer import load, save


CONFIG = FinetuneConfig(
    reconstruction=ReconstructionConfig(),
    adversarial=AdversarialConfig(
        # Of the tokenizer's own encoder, which is one block deep.
        discriminator=DiscriminatorConfig(kind="features", num_levels=1, kernel=3),
        discriminator_start=1,
        decoder_start=2,
    ),
    optimizer=dataclasses.replace(
        presets.FINETUNE_LAPTOP.optimizer, warmup_steps=1, learning_rate=1e-3
    ),
    latent_noise=0.1,
    batch_size=8,
    num_steps=4,
)


@pytest.fixture(scope="module")
def tokenizer(tiny, data):
    return measured_tokenizer(tiny.tokenizer, data)


def finetuned(tokenizer, data, folder, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    mesh = data_mesh(2)
    source = ArraySource({"image": data["image"]})
    batches = EncodedImages(tokenizer, source, config, mesh, folder=folder, workers=1)
    return finetune_decoder(
        config, tokenizer, batches, folder=folder, mesh=mesh, log_every=1,
        save_every=2, vision=DepthFeatures(FrozenEncoder.of(tokenizer), 1, 16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def ended(tokenizer, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    return finetuned(tokenizer, data, folder), folder


def test_only_the_decoder_changes_and_latents_keep_their_hash(
    ended, tokenizer, data, tmp_path
):
    found, _ = ended
    save(found, tmp_path)
    again = load(tmp_path)
    assert eqx.tree_equal(again, found)
    assert latents_hash(again) == latents_hash(tokenizer)
    np.testing.assert_array_equal(encode(again, data), encode(tokenizer, data))
    without = lambda tokenizer: eqx.tree_at(lambda one: one.decoder, tokenizer, None)
    assert eqx.tree_equal(without(found), without(tokenizer))
    assert not eqx.tree_equal(found.decoder, tokenizer.decoder)


def test_an_interrupted_run_ends_as_one_that_was_not(ended, tokenizer, data, tmp_path):
    expected, folder = ended
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # it was killed before that was whole
    again = finetuned(tokenizer, data, tmp_path)
    for ours, theirs in zip(*map(jax.tree.leaves, (again, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert metrics_of(tmp_path) == metrics_of(folder)
    assert len(metrics_of(folder)) == 4


def test_another_config_than_a_run_was_begun_with_is_refused(ended, tokenizer, data):
    with pytest.raises(ValueError, match=r"`config.latent_noise` \(0.2, was 0.1\)"):
        finetuned(tokenizer, data, ended[1], latent_noise=0.2)


def test_a_collapse_is_a_warning_within_500_steps_and_once(capsys):
    sink = collapse_sink()
    for step in range(50, 1000, 50):  # it began at step 100, and mended at 800
        count = step - 100 if 100 <= step < 800 else 0
        sink(step, {"saturated_steps": count, "flat_steps": 0.0})
    (text,) = capsys.readouterr().err.splitlines()
    assert "nearly 0 for 200 steps, up to step 300" in text
    sink(1500, {"saturated_steps": 0.0, "flat_steps": 250.0})
    assert "of one color for 250 steps" in capsys.readouterr().err


def test_a_log_that_would_tell_of_a_collapse_too_late_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"`log_every` \(300\) must be 250 or less"):
        finetune_decoder(
            CONFIG, tokenizer, lambda first: iter(()), folder=tmp_path, log_every=300
        )
