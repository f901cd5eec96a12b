"""What a run makes again, and what it finds. Nothing is trained or measured."""

import dataclasses
import functools
import shutil

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments import compare_finetuning
from experiments.scale_compute import plan
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.frozen.scene_network import scene_network_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.study import stages
from vtp_eqx.study.dataset import Dataset, Split
from vtp_eqx.study.recipe import run, SMOKE
from vtp_eqx.study.run_spec import RunPaths
from vtp_eqx.study.stages import execute_run
from vtp_eqx.tokenizer import Tokenizer


SPEC = plan("smoke", [0])[0]
WORDS = train_tokenizer(["a scene"] * 8, 300)
ROWS = 48
SPLIT = Split(
    np.zeros((ROWS, 32, 32, 3), np.uint8), ["a scene"] * ROWS,
    np.zeros((ROWS, 17), np.int32), np.zeros(ROWS, np.int32), {},
)  # fmt: skip


@functools.cache
def untrained(model, config):
    return eqx.filter_jit(model)(config, key=jr.key(0))


@pytest.fixture
def made(row, monkeypatch):
    """What was made, in order; `made.mean` is that of a trained tokenizer's latents.

    `made.rows` are how many rows of each array a training was given.
    """

    class Made(list):
        mean = 0.0

    names = Made()
    names.rows = {}
    grid = SPEC.generate.dit.latent_size

    def encode_images(tokenizer, *_, **__):
        return np.zeros((ROWS, grid, grid, tokenizer.config.latent_width), np.float32)

    def pretrain(config, data, *_, vision, **__):
        names.rows["tokenizer"] = {len(array) for array in data.values()}
        assert {*data} == {"image", "caption"}
        if vision is not None:
            frozen = untrained(Tokenizer, vision.network.config).encoder
            assert eqx.tree_equal(vision.network.encoder, frozen)
        names.append("tokenizer" if vision is None else "aligned tokenizer")
        return untrained(Tokenizer, config.tokenizer)

    def train_decoder(config, tokenizer, *arrays, **__):
        names.rows["decoder"] = {len(array) for array in arrays}
        names.append("decoder")
        return tokenizer

    def train_generator(config, *arrays, snapshot, snapshot_steps, **__):
        names.rows["generator"] = {len(array) for array in arrays}
        names.append("generator")
        dit = untrained(DiT, config.dit)
        for step in snapshot_steps:
            snapshot(step, dit)
        return dit

    def objective_balance(folder, data, *, num_batches, vision, **_):
        names.append("gradients")
        names.rows["gradients"] = {len(array) for array in data.values()}
        assert (folder / "tokenizer").is_dir()  # that of the pre-training
        assert num_batches == 8
        assert vision is None
        return {"weight contrast": 0.5}

    def measure(spec, tokenizer, generators, data, paths, report, known):
        names.append("numbers")
        folder = paths.result(spec)
        assert tuple(generators) == spec.budgets
        folder.mkdir(parents=True, exist_ok=True)
        result = dataclasses.replace(
            row(spec, 4.0, **known).result, feature_hash=scene_network_hash()
        )
        result.write(folder)
        return result

    def with_latent_statistics(tokenizer, *_):
        where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
        width = tokenizer.config.latent_width
        statistics = (jnp.full(width, names.mean), jnp.full(width, 2.0))
        return eqx.tree_at(where, tokenizer, statistics)

    for name, fake in dict(
        pretrain=pretrain,
        train_decoder=train_decoder,
        train_generator=train_generator,
        measure=measure,
        objective_balance=objective_balance,
        with_latent_statistics=with_latent_statistics,
        encode_images=encode_images,
        load_dataset=lambda *_: Dataset(SPLIT, SPLIT, WORDS),
    ).items():
        monkeypatch.setattr(stages, name, fake)
    return names


def execute(paths, spec=SPEC):
    return execute_run(spec, paths, lambda *_: None)


def test_a_run_is_made_once_and_what_is_lost_or_cut_short_again(made, tmp_path):
    paths = RunPaths(tmp_path)
    first = execute(paths)
    assert made == ["tokenizer", "decoder", "generator", "numbers"]
    assert execute(paths) == first
    assert len(made) == 4
    result = paths.result(SPEC) / "result.json"
    generators = [
        paths.generator(SPEC) / f"generator-{steps}.safetensors"
        for steps in SPEC.budgets
    ]
    for stage, last in (
        ("tokenizer", paths.tokenizer(SPEC) / "tokenizer" / "config.json"),
        ("decoder", paths.decoder(SPEC) / "tokenizer" / "config.json"),
        *(("generator", path) for path in generators),
    ):
        # The file of a stage that is written last, whose folder and others remain.
        last.unlink()
        result.unlink()
        made.clear()
        execute(paths)
        assert made == [stage, "numbers"]


def test_what_another_network_measured_is_measured_again(made, tmp_path):
    paths = RunPaths(tmp_path)
    result = execute(paths)
    dataclasses.replace(result, feature_hash="another").write(paths.result(SPEC))
    made.clear()
    assert execute(paths) == result
    assert made == ["numbers"]


def test_a_run_is_not_measured_that_another_study_measured_meanwhile(
    made, row, tmp_path, monkeypatch
):
    paths = RunPaths(tmp_path)
    trained = stages.train_generator

    def train_generator(*arguments, **options):
        result = row(SPEC, 7.0).result
        own = dataclasses.replace(result, feature_hash=scene_network_hash())
        paths.result(SPEC).mkdir(parents=True)
        own.write(paths.result(SPEC))
        return trained(*arguments, **options)

    monkeypatch.setattr(stages, "train_generator", train_generator)
    assert execute(paths).numbers["FD-scenes"] == 7.0
    assert "numbers" not in made


def test_a_decoder_after_another_tokenizer_is_refused(made, tmp_path):
    paths = RunPaths(tmp_path)
    execute(paths)
    (paths.result(SPEC) / "result.json").unlink()
    (paths.tokenizer(SPEC) / "tokenizer" / "config.json").unlink()
    made.mean = 1.0  # trained again, on another machine say
    with pytest.raises(ValueError, match="was trained after another tokenizer"):
        execute(paths)


def test_each_decoder_after_another_tokenizer_is_named(made, tmp_path, monkeypatch):
    tuned = lambda config, tokenizer, *_, **__: made.append("stage two") or tokenizer
    monkeypatch.setattr(stages, "finetune_decoder", tuned)
    paths, spec = RunPaths(tmp_path), compare_finetuning.plan("smoke", [0])[1]
    execute(paths, spec)
    assert made == ["tokenizer", "decoder", "stage two", "generator", "numbers"]
    for folder in (paths.tokenizer(spec), paths.result(spec)):
        shutil.rmtree(folder)
    made.mean = 1.0
    for folder in (paths.decoder(spec), paths.finetuned(spec)):
        with pytest.raises(ValueError, match=rf"decoder in {folder} was trained after"):
            execute(paths, spec)
        shutil.rmtree(folder)
    shutil.rmtree(paths.generator(spec))
    execute(paths, spec)


def test_a_run_without_a_decoder_stage_has_none(made, tmp_path):
    spec = dataclasses.replace(SPEC, decode=None)
    execute(RunPaths(tmp_path), spec)
    assert made == ["tokenizer", "generator", "numbers"]
    assert not (tmp_path / "decoders").exists()


def test_runs_that_differ_in_what_the_generator_learns_share_the_rest(made, tmp_path):
    paths = RunPaths(tmp_path)
    execute(paths, run(SMOKE, "AE", "x", 0))
    for method in ("AE rotated", "AE one factor"):
        made.clear()
        execute(paths, run(SMOKE, method, "x", 0))
        assert made == ["generator", "numbers"]


def test_a_frozen_network_is_made_before_what_is_aligned_with_it_and_once(
    made, tmp_path
):
    paths = RunPaths(tmp_path)
    spec = run(SMOKE, "distilled", "x", 0)
    execute(paths, spec)
    rest = ["decoder", "generator", "numbers"]
    assert made == ["tokenizer", "aligned tokenizer", *rest]
    made.clear()
    # It is the tokenizer of a run of its own, and another one's frozen network.
    execute(paths, run(SMOKE, "CLIP+SSL", "x", 0))
    assert made == rest
    made.clear()
    longer = dataclasses.replace(spec.pretrain, num_steps=spec.pretrain.num_steps + 1)
    execute(paths, dataclasses.replace(spec, pretrain=longer))
    assert made == ["aligned tokenizer", *rest]


@pytest.mark.parametrize(("images", "seen"), [(24, 24), (None, ROWS)])
def test_a_tokenizer_sees_the_images_of_its_run_and_the_generator_all(
    images, seen, made, tmp_path
):
    spec = run(SMOKE, "AE", "x", 0, tokenizer_images=images)
    execute(RunPaths(tmp_path), spec)
    assert made.rows == {"tokenizer": {seen}, "decoder": {seen}, "generator": {ROWS}}


def test_gradients_are_measured_where_a_run_asks_for_them(made, tmp_path):
    paths = RunPaths(tmp_path)
    execute(paths, run(SMOKE, "VTP", "x", 0))
    made.clear()
    asked = dict(gradient_batches=8, tokenizer_images=24)
    result = execute(paths, run(SMOKE, "VTP", "x", 0, **asked))
    assert made == ["tokenizer", "decoder", "generator", "gradients", "numbers"]
    assert result.numbers["weight contrast"] == 0.5
    assert made.rows["gradients"] == {24}
    made.clear()
    execute(paths, run(SMOKE, "VTP", "x", 0, gradient_batches=8))
    assert made == ["gradients", "numbers"]  # trained before


def test_a_decoder_learns_after_a_frozen_encoder_that_other_runs_share(
    made, tmp_path, monkeypatch
):
    paths, given = RunPaths(tmp_path), []
    train_decoder = stages.train_decoder
    monkeypatch.setattr(
        stages,
        "train_decoder",
        lambda config, tokenizer, *rest, **options: (
            given.append((config, tokenizer))
            or train_decoder(config, tokenizer, *rest, **options)
        ),
    )
    spec = run(SMOKE, "RAE", "x", 0)
    execute(paths, spec)
    assert made == ["tokenizer", "decoder", "generator", "numbers"]
    (config, tokenizer), frozen = (
        given[0],
        untrained(Tokenizer, spec.pretrain.tokenizer),
    )
    assert (config.latent_noise, config.noise_law) == (0.8, "uniform")
    assert tokenizer.config == spec.tokenizer
    assert eqx.tree_equal(tokenizer.encoder, frozen.encoder)
    assert jnp.array_equal(tokenizer.bottleneck.weight, jnp.eye(48))
    made.clear()
    (paths.result(spec) / "result.json").unlink()
    execute(paths, spec)
    assert made == ["numbers"]
    made.clear()
    execute(paths, run(SMOKE, "CLIP+SSL", "x", 0))
    assert made == ["decoder", "generator", "numbers"]
