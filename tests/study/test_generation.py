"""Numbers of samples, where the samples are scenes that were rendered or damaged."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation import extract
from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.memorization import coarse_pixels, copy_distance
from vtp_eqx.evaluation.scene_metrics import read_scenes, SceneSet
from vtp_eqx.frozen.scene_network import load_scene_network, shipped
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.study import generation
from vtp_eqx.study.dataset import Dataset, Split
from vtp_eqx.study.generation import (
    ClassDistance,
    compare_sets,
    generation_numbers,
    Reference,
    reference_numbers,
)
from vtp_eqx.study.scene_kind import SceneKind


SCENES = SceneConfig(difficulty=0.7, validation_in_groups=False)
KIND = SceneKind(SCENES)
COUNT = 480
LOWER = {"FD-scenes", "MIND", "FD per class"}  # is better; of all others here, higher
SCORES = {*LOWER, "precision", "recall", "density", "coverage"}


def blurred(images):
    return as_bytes(gaussian_filter(images / np.float32(255), (0, 1.5, 1.5, 0)))


@pytest.fixture(scope="module")
def network():
    return load_scene_network()


@pytest.fixture(scope="module")
def unseen():
    return render(SCENES, SCENES.validation_indices[COUNT : 2 * COUNT])


@pytest.fixture(scope="module")
def data():
    real = render(SCENES, SCENES.validation_indices[:COUNT])
    train = render(SCENES, SCENES.train_indices[: 4 * COUNT])
    parts = (
        Split(of.image, of.caption, None, of.label, of.attributes)
        for of in (train, real)
    )
    return Dataset(*parts, train_tokenizer(["a scene"] * 8, 300))


@pytest.fixture(scope="module")
def sets(network, data):
    """Training scenes, real ones, and their reconstructions."""
    return [
        SceneSet(read_scenes(network, images), labels)
        for images, labels in (
            (data.train.image, data.train.label),
            (data.validation.image, data.validation.label),
            (blurred(data.validation.image), data.validation.label),
        )
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def reference(data, sets, folder):
    return Reference.of(KIND, data, *sets, COUNT, folder)


def numbers_of(network, images, labels, reference, condition="class"):
    scenes = SceneSet(read_scenes(network, images), labels)
    return generation_numbers(scenes, images, reference, condition)


def test_real_scenes_are_at_the_floor_and_blurred_ones_far(network, unseen, reference):
    floors = reference_numbers(reference, "class")
    floors["FD-scenes(train, validation)"] = floors["FD(train, validation)"]
    near, far = (
        numbers_of(network, images, unseen.label, reference)
        for images in (unseen.image, blurred(unseen.image))
    )
    for name in SCORES:
        floor = floors[f"{name}(train, validation)"]
        assert near[name] == pytest.approx(floor, rel=0.35), name
        if name in LOWER:
            # Twenty scenes a class are few.
            assert far[name] > (1.3 if name == "FD per class" else 2) * floor, name
        elif name != "recall":
            assert far[name] < near[name], name
    # Blurred samples resemble blurred reconstructions.
    key = "FD(samples, reconstructions)"
    assert far[key] < far["FD-scenes"] / 2
    assert near[key] > near["FD-scenes"]


def test_no_order_of_samples_changes_a_number(network, unseen, reference):
    order = np.random.default_rng(0).permutation(COUNT)
    images = blurred(unseen.image)
    numbers = numbers_of(network, images, unseen.label, reference)
    mixed = numbers_of(network, images[order], unseen.label[order], reference)
    assert mixed == pytest.approx(numbers, rel=1e-3)


def test_accuracies_are_normalized_by_those_of_reconstructions(
    network, unseen, reference
):
    images = blurred(unseen.image)
    numbers = numbers_of(network, images, unseen.label, reference)
    oracle = reference_numbers(reference, "class")
    for name in ("class accuracy", "shape accuracy", "color accuracy"):
        ceiling = oracle[f"{name} in reconstructions"]
        assert numbers[f"{name}, normalized"] == numbers[name] / ceiling
    assert oracle["class accuracy in reconstructions"] < 0.95
    # As blurred as reconstructions: nothing else is lost.
    assert numbers["class accuracy, normalized"] == pytest.approx(1, abs=0.1)


def test_a_generator_that_knows_no_class_has_no_number_of_classes(
    network, data, unseen, sets, reference, folder
):
    no_class = np.zeros(COUNT, int)
    train, real, rebuilt = sets
    all_train = dataclasses.replace(train, labels=0 * train.labels)
    others = [dataclasses.replace(one, labels=no_class) for one in (real, rebuilt)]
    unknown = Reference.of(KIND, data, all_train, *others, COUNT, folder)
    numbers = numbers_of(network, unseen.image, no_class, unknown, "none")
    numbers |= reference_numbers(unknown, "none")
    assert not [name for name in numbers if "class" in name or "accuracy" in name]
    assert numbers["FD-scenes"] > 0
    # Nor where a class is missing: a long run does not end in an error.
    few = unseen.image[:20], unseen.label[:20]
    assert "FD per class" not in numbers_of(network, *few, reference)


def test_what_frequencies_account_for_is_taken_off(network, unseen, reference):
    # Two backgrounds are three times as frequent.
    common = np.flatnonzero(unseen.attributes["background"] < 2)
    some, whole = (
        numbers_of(network, unseen.image[rows], unseen.label[rows], reference)
        for rows in (np.r_[np.arange(COUNT), common, common], np.arange(COUNT))
    )
    assert some["FD-scenes"] > 1.2 * whole["FD-scenes"]
    assert some["FD reweighted"] < 1.1 * whole["FD-scenes"]


def test_copies_of_training_scenes_are_seen_and_unseen_scenes_are_none(
    network, data, unseen, reference
):
    copies = data.train.image[3 : 4 * COUNT : 4], data.train.label[3 : 4 * COUNT : 4]
    names = ("memorization, features", "memorization, pixels")
    copied, own = (
        numbers_of(network, images, labels, reference)
        for images, labels in (copies, (unseen.image, unseen.label))
    )
    for name in names:
        assert copied[name] == 20
        assert own[name] < 2.5


def test_what_no_tokenizer_has_a_part_in_is_computed_once(
    data, sets, reference, folder, monkeypatch
):
    train, real, rebuilt = sets
    # As it was computed before any of it was kept, of one scene of each group.
    others = train[slice(0, COUNT * 4, 4)]
    of_kind = KIND.sample_numbers(others, real, data.validation.attributes)
    assert reference.floors == {**compare_sets(others, real), **of_kind}
    pixels = [coarse_pixels(of.image) for of in (data.train, data.validation)]
    assert reference.near == {
        "features": copy_distance(train.features, real.features),
        "pixels": copy_distance(*pixels),
    }
    computed = []

    def compare(others, real):
        computed.append(len(others.features))
        return {"FD": 1.0}

    monkeypatch.setattr(generation, "compare_sets", compare)
    again = Reference.of(KIND, data, train, real, real, COUNT, folder)
    assert (again.floors, again.near) == (reference.floors, reference.near)
    assert not computed
    # Another count, other labels, features or pixels: all computed anew.
    last = data.train.image.copy()
    last[-1] = 0
    changed = dataclasses.replace(data.train, image=last)
    for count, of_data, of_train in (
        (240, data, train),
        (COUNT, data, dataclasses.replace(train, labels=train.labels[::-1])),
        (COUNT, data, train[slice(0, -1)]),
        (COUNT, dataclasses.replace(data, train=changed), train),
    ):
        Reference.of(KIND, of_data, of_train, real, rebuilt, count, folder)
    assert computed == [240, COUNT, COUNT, COUNT]


def test_the_floor_and_samples_are_far_from_real_scenes_in_features_of_classes(
    data, unseen, tmp_path, monkeypatch
):
    classes = ClassDistance.of(KIND, data, COUNT, tmp_path)
    network = load_scene_network(shipped(32, "class"))
    images = (data.train.image[: 4 * COUNT : 4], data.validation.image)
    others, real = (Moments.of(read_scenes(network, of).features) for of in images)
    assert classes.floor == pytest.approx(frechet_distance(others, real), rel=1e-4)
    near = classes.to(unseen.image)
    assert near == pytest.approx(classes.floor, rel=0.35)
    # Half of the classes are missing: shapes and colors, and no background.
    half = unseen.image[unseen.label < 12]
    assert classes.to(half) > 3 * near
    # Features of the data are kept: equal to the last bit.
    assert len(list(tmp_path.glob("features-*/*.npz"))) == 2
    monkeypatch.setattr(extract, "in_batches", None)
    assert ClassDistance.of(KIND, data, COUNT, tmp_path).floor == classes.floor


def test_no_network_of_classes_is_shipped_for_other_sizes(data, tmp_path):
    large = SceneKind(dataclasses.replace(SCENES, size=64))
    assert ClassDistance.of(large, data, 12, tmp_path) is None
