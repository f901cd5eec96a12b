"""A generator trained from a folder of latents, resumed, and refused what is wrong."""

import dataclasses
import json
from pathlib import Path
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.config import (
    as_json,
    DiTConfig,
    from_dict,
    GenerateConfig,
    OptimizerConfig,
)
from vtp_eqx.data.latents import LatentIndex, write_npy_shard
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import encoder_hash, latents_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.runs.generator_batches import EncodedBatches, fit_to_latents
from vtp_eqx.runs.generator_setup import GeneratorOptions, open_generator_training
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.train_generator import train_on_batches


CONFIG = GenerateConfig(
    dit=DiTConfig(width=8, depth=1, num_heads=2),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, schedule="constant"
    ),
    batch_size=8,
    num_steps=4,
)
RNG = np.random.default_rng(0)
RAW = RNG.standard_normal((22, 2, 2, 2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def measured(tokenizer):
    """The tokenizer with statistics of its own."""
    where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
    mean, std = RAW.mean(axis=(0, 1, 2, 3)), RAW.std(axis=(0, 1, 2, 3))
    return eqx.tree_at(where, tokenizer, (jnp.asarray(mean), jnp.asarray(std)))


@pytest.fixture
def latents(measured, tmp_path):
    """A folder of latents of 22 images in five classes, in two shards."""
    folder, shards = tmp_path / "latents", []
    folder.mkdir()
    for number, rows in enumerate((np.arange(15), np.arange(15, 22))):
        record = write_npy_shard(folder, number, RAW[rows], rows, rows % 5, "float32")
        shards.append(record)
    LatentIndex(
        encoder_hash=encoder_hash(measured), source="", crop="", view_settings={},
        views=("original", "flip"), dtype="float32", layout="npy", shard_images=15,
        limit=None, latents_hash=latents_hash(measured), num_images=22,
        mean=tuple(np.asarray(measured.latent_mean).tolist()),
        std=tuple(np.asarray(measured.latent_std).tolist()), shards=tuple(shards),
    ).write(folder)  # fmt: skip
    (folder / "tokenizer").mkdir()
    return folder


@pytest.fixture
def options(latents, tmp_path):
    return GeneratorOptions(
        config=CONFIG, latents=str(latents), out=str(tmp_path / "run"), devices=1
    )


@pytest.mark.slow
def test_a_run_is_evaluated_and_resumed_bit_for_bit(options, measured, tmp_path):
    out, calls = tmp_path / "run", []

    def evaluate(dit, step):
        assert isinstance(dit, DiT)
        calls.append(step)
        return {"fid": 1.0 / step, "score": step}

    def train():
        with open_generator_training(options, lambda _: measured) as setup:
            assert setup.config.dit.num_classes == 5
            assert setup.tokenizer is measured
            return train_on_batches(
                setup.config, setup.batches, folder=out, mesh=setup.mesh,
                evaluate=evaluate, evaluate_every=2, save_every=2, log_every=1,
                holds_folder=True,
            )  # fmt: skip

    first = train()
    assert calls == [2, 4]
    assert read_log(out / "metrics.jsonl")[-1]["fid"] == 0.25
    shutil.rmtree(out / "checkpoints" / "4")
    again = train()
    assert calls == [2, 4, 4]
    assert eqx.tree_equal(first, again)
    # Other latents, and other settings, are no continuation.
    half = dataclasses.replace(options, unconditional=True)
    with (
        pytest.raises(ValueError, match=r"^`config.dit.num_classes` \(1, was 5\)"),
        open_generator_training(half, lambda _: measured),
    ):
        pass


def opened(options, tokenizer):
    with open_generator_training(options, lambda _: tokenizer) as setup:
        return setup


def test_another_tokenizer_is_refused(options, measured, tokenizer):
    with pytest.raises(ValueError, match=r"latents not measured\) must be the one"):
        opened(options, tokenizer)
    weight = lambda tokenizer: tokenizer.bottleneck.weight
    other = eqx.tree_at(weight, measured, 2 * weight(measured))
    with pytest.raises(ValueError, match=r"name that one, or extract"):
        opened(options, other)


def test_latents_that_name_no_tokenizer_need_one(options, latents, measured):
    index = LatentIndex.read(latents)
    dataclasses.replace(index, latents_hash="").write(latents)
    (latents / "tokenizer").rmdir()
    with pytest.raises(ValueError, match=r"^`tokenizer` \(''\) must name what the"):
        opened(options, measured)
    named = dataclasses.replace(options, tokenizer="somewhere")
    mean = np.zeros_like(measured.latent_mean)
    other = eqx.tree_at(lambda t: t.latent_mean, measured, jnp.asarray(mean))
    # The statistics of the latents are what they are normalized by.
    found = opened(named, other).tokenizer
    np.testing.assert_array_equal(found.latent_mean, measured.latent_mean)


def test_labels_and_shapes_are_those_of_the_latents(options, measured):
    changed = lambda **dit: dataclasses.replace(
        options,
        config=dataclasses.replace(CONFIG, dit=dataclasses.replace(CONFIG.dit, **dit)),
    )
    with pytest.raises(ValueError, match=r"^`config.dit.num_classes` \(3\) must be"):
        opened(changed(num_classes=3), measured)
    with pytest.raises(ValueError, match=r"^`config.dit.latent_width` \(5\) must be"):
        opened(changed(latent_width=5), measured)
    assert fit_to_latents(CONFIG, (2, 2, 4), 5).dit.latent_size == 2
    more = fit_to_latents(changed(num_classes=9).config, (2, 2, 4), 5)
    assert more.dit.num_classes == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(num_steps=3, optimizer=OptimizerConfig()),
            "`warmup_steps` must lie below",
        ),
        (dict(accumulate=3), r"^`batch_size` \(.*\) must be a multiple of devices"),
    ],
)
def test_a_setting_that_is_refused_leaves_no_folder(changes, message, options):
    config = dataclasses.replace(options.config, **changes)
    with pytest.raises(ValueError, match=message):
        opened(dataclasses.replace(options, config=config), None)
    assert not Path(options.out).exists()


def test_nothing_to_learn_from_is_a_sentence(options):
    with pytest.raises(ValueError, match=r"^`latents` \(''\) or `data` \(\) must name"):
        opened(dataclasses.replace(options, latents=""), None)
    with pytest.raises(ValueError, match=r"^`weights` \(x\) are of the network"):
        dataclasses.replace(options, weights="x")
    with pytest.raises(ValueError, match=r"^`eval_samples` \(0\) must be 1 or more"):
        dataclasses.replace(options, eval_samples=0)
    with pytest.raises(ValueError, match=r"cannot both be what is learned from"):
        dataclasses.replace(options, data=("images",), tokenizer="x")


def test_images_are_encoded_as_they_are_needed(measured, tmp_path):
    images = RNG.integers(0, 256, (12, 24, 20, 3)).astype(np.uint8)
    source = ArraySource({"image": images, "label": np.arange(12) % 3})
    config = fit_to_latents(CONFIG, (2, 2, 4), 3)
    batches = EncodedBatches(
        measured, source, config, data_mesh(1), folder=tmp_path, workers=2
    )
    stream = batches(1)
    found = next(stream)
    stream.close()
    rows = np.array(batches.rows(1))
    np.testing.assert_array_equal(found.condition, rows % 3)
    squares = np.stack([batches.images.reader.crop(images[row]) for row in rows])
    views = np.concatenate([squares, squares[:, :, ::-1]]) / np.float32(255)
    expected = measured.normalize_latents(
        jax.vmap(measured.encode)(jnp.asarray(views))
    ).reshape(2, 8, 2, 2, 4)
    errors = np.abs(np.asarray(expected) - found.latents).max(axis=(2, 3, 4))
    # Each is one of its two views, and not all are the same one.
    np.testing.assert_allclose(errors.min(axis=0), 0, atol=1e-4)
    assert 0 < (errors[1] < errors[0]).sum() < 8


def test_a_label_outside_the_classes_is_refused_with_its_batch(measured, tmp_path):
    images = np.zeros((12, 16, 16, 3), np.uint8)
    source = ArraySource({"image": images, "label": np.full(12, 7)})
    config = fit_to_latents(CONFIG, (2, 2, 4), 5)
    batches = EncodedBatches(
        measured, source, config, data_mesh(1), folder=tmp_path, workers=1
    )
    with pytest.raises(ValueError, match=r"^Labels must be 0 to 4, .* in batch 0"):
        next(batches(0))


def test_options_are_read_back_from_what_a_run_writes(options):
    assert from_dict(GeneratorOptions, json.loads(as_json(options))) == options
