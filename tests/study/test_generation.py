"""Numbers of samples, where the samples are scenes that were rendered or damaged."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.scene_metrics import read_scenes, SceneSet
from vtp_eqx.frozen.scene_network import load_scene_network
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.study.generation import (
    floor_numbers,
    generation_numbers,
    Reference,
)


SCENES = SceneConfig(difficulty=0.7, validation_in_groups=False)
COUNT = 480
LOWER = {"FD-scenes", "MIND"}  # is better; of all others here, higher
SCORES = {*LOWER, "precision", "recall", "density", "coverage"}


def blurred(images):
    return as_bytes(gaussian_filter(images / np.float32(255), (0, 1, 1, 0)))


@pytest.fixture(scope="module")
def network():
    return load_scene_network()


@pytest.fixture(scope="module")
def unseen():
    return render(SCENES, SCENES.validation_indices[COUNT : 2 * COUNT])


@pytest.fixture(scope="module")
def reference(network):
    real = render(SCENES, SCENES.validation_indices[:COUNT])
    train = render(SCENES, SCENES.train_indices[: 4 * COUNT : 4])
    real_set, rebuilt, others = (
        SceneSet(read_scenes(network, images))
        for images in (real.image, blurred(real.image), train.image)
    )
    return Reference(
        real=real_set, rebuilt=rebuilt, others=others, attributes=real.attributes
    )


def numbers_of(network, images, labels, reference):
    scenes = SceneSet(read_scenes(network, images))
    return generation_numbers(scenes, labels, reference, "class")


def test_real_scenes_are_at_the_floor_and_blurred_ones_far(network, unseen, reference):
    floors = floor_numbers(reference)
    floors["FD-scenes(train, validation)"] = floors["FD(train, validation)"]
    near, far = (
        numbers_of(network, images, unseen.label, reference)
        for images in (unseen.image, blurred(unseen.image))
    )
    for name in SCORES:
        floor = floors[f"{name}(train, validation)"]
        assert near[name] == pytest.approx(floor, rel=0.35), name
        if name in LOWER:
            assert far[name] > 2 * floor, name
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
