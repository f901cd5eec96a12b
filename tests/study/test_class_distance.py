"""FD-classes: a distance of scenes in a network that learned the class alone."""

import dataclasses

import pytest

from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation import extract
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.scene_metrics import read_scenes
from vtp_eqx.frozen.scene_network import load_scene_network, shipped
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.study.dataset import Dataset, Split
from vtp_eqx.study.generation import ClassDistance
from vtp_eqx.study.scene_kind import SceneKind


SCENES = SceneConfig(difficulty=0.7, validation_in_groups=False)
KIND = SceneKind(SCENES)
COUNT = 480


def split(rows):
    of = render(SCENES, rows)
    return Split(of.image, of.caption, None, of.label, of.attributes)


@pytest.fixture(scope="module")
def data():
    train, real = SCENES.train_indices[: 4 * COUNT], SCENES.validation_indices[:COUNT]
    return Dataset(split(train), split(real), train_tokenizer(["a scene"] * 8, 300))


def test_the_floor_and_samples_are_far_from_real_scenes_in_its_features(
    data, tmp_path, monkeypatch
):
    classes = ClassDistance.of(KIND, data, COUNT, tmp_path)
    network = load_scene_network(shipped(32, "class"))
    images = (data.train.image[: 4 * COUNT : 4], data.validation.image)
    others, real = (Moments.of(read_scenes(network, of).features) for of in images)
    assert classes.floor == pytest.approx(frechet_distance(others, real), rel=1e-4)
    unseen = split(SCENES.validation_indices[COUNT : 2 * COUNT])
    near = classes.to(unseen.image)
    assert near == pytest.approx(classes.floor, rel=0.35)
    # Half of the classes are missing: shapes and colors, and no background.
    half = unseen.image[unseen.label < 12]
    assert classes.to(half) > 3 * near
    # Features of the data are kept: equal to the last bit.
    assert len(list(tmp_path.glob("features-*/*.npz"))) == 2
    monkeypatch.setattr(extract, "in_batches", None)
    assert ClassDistance.of(KIND, data, COUNT, tmp_path).floor == classes.floor


def test_no_network_is_shipped_for_other_sizes(data, tmp_path):
    large = SceneKind(dataclasses.replace(SCENES, size=64))
    assert ClassDistance.of(large, data, 12, tmp_path) is None
