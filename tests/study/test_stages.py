"""What a point makes again, and what it finds. Nothing is trained or judged."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.scale_compute import plan
from vtp_eqx.data.captions import train_tokenizer
from vtp_eqx.models.dit import DiT
from vtp_eqx.study import stages
from vtp_eqx.study.dataset import Dataset, Split
from vtp_eqx.study.point import Places
from vtp_eqx.study.stages import run_point
from vtp_eqx.tokenizer import Tokenizer


POINT = plan("smoke", [0])[0]
WORDS = train_tokenizer(["a scene"] * 8, 300)
SPLIT = Split(np.zeros((8, 32, 32, 3), np.uint8), ["a scene"] * 8, None,
              np.zeros(8, np.int32), {})  # fmt: skip


@pytest.fixture
def made(row, monkeypatch):
    """What was made, in order; `made.mean` is that of a trained tokenizer's latents."""

    class Made(list):
        mean = 0.0

    names = Made()
    grid = POINT.generate.dit.latent_size
    latents = np.zeros((8, grid, grid, POINT.generate.dit.latent_width), np.float32)
    width = latents.shape[-1]

    def pretrain(config, *_, **__):
        names.append("tokenizer")
        return Tokenizer(config.tokenizer, key=jr.key(0))

    def train_decoder(config, tokenizer, *_, **__):
        names.append("decoder")
        return tokenizer

    def train_generator(config, *_, **__):
        names.append("generator")
        return DiT(config.dit, key=jr.key(0))

    def measure(point, tokenizer, generator, data, folder, report):
        names.append("numbers")
        result = row(point, 4.0).result
        result.write(folder)
        return result

    statistics = lambda _: (jnp.full(width, names.mean), jnp.ones(width))
    for name, fake in dict(
        pretrain=pretrain,
        train_decoder=train_decoder,
        train_generator=train_generator,
        measure=measure,
        latent_statistics=statistics,
        encoded_latents=lambda *_, **__: latents,
        load_dataset=lambda *_: Dataset(SPLIT, SPLIT, WORDS),
    ).items():
        monkeypatch.setattr(stages, name, fake)
    return names


def run(places):
    return run_point(POINT, places, lambda *_: None)


def test_a_point_is_made_once_and_what_is_lost_or_cut_short_again(made, tmp_path):
    places = Places(tmp_path)
    first = run(places)
    assert made == ["tokenizer", "decoder", "generator", "numbers"]
    assert run(places) == first
    assert len(made) == 4
    result = places.point(POINT) / "result.json"
    for stage, last in (
        ("tokenizer", places.tokenizer(POINT) / "tokenizer" / "config.json"),
        ("decoder", places.decoder(POINT) / "tokenizer" / "config.json"),
        ("generator", places.generator(POINT) / "generator.safetensors"),
    ):
        # The file of a stage that is written last, whose folder and others remain.
        last.unlink()
        result.unlink()
        made.clear()
        run(places)
        assert made == [stage, "numbers"]


def test_a_point_is_not_measured_that_another_study_measured_meanwhile(
    made, row, tmp_path, monkeypatch
):
    places = Places(tmp_path)
    trained = stages.train_generator

    def train_generator(*arguments, **options):
        row(POINT, 7.0).result.write(places.point(POINT))
        return trained(*arguments, **options)

    monkeypatch.setattr(stages, "train_generator", train_generator)
    assert run(places).numbers["FD-scenes"] == 7.0
    assert "numbers" not in made


def test_a_decoder_behind_another_tokenizer_is_refused(made, tmp_path):
    places = Places(tmp_path)
    run(places)
    (places.point(POINT) / "result.json").unlink()
    (places.tokenizer(POINT) / "tokenizer" / "config.json").unlink()
    made.mean = 1.0  # trained again, on another machine say
    with pytest.raises(ValueError, match="belongs to the tokenizer it was trained"):
        run(places)


def test_a_point_without_a_stage_of_decoders_has_none(made, tmp_path, monkeypatch):
    point = dataclasses.replace(POINT, decode=None)
    run_point(point, Places(tmp_path), lambda *_: None)
    assert made == ["tokenizer", "generator", "numbers"]
    assert not (tmp_path / "decoders").exists()
