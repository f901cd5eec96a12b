import equinox as eqx
import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.mind import mind
from vtp_eqx.evaluation.scene_metrics import (
    attribute_agreement,
    attribute_total_variation,
    attribute_weights,
    conditional_accuracy,
    predictions,
    read_scenes,
    recognizable_share,
    SceneSet,
    shares,
)
from vtp_eqx.frozen.scene_network import load_scene_network, Reading
from vtp_eqx.scenes.render import COLORS, render, SceneConfig


SCENES = SceneConfig(difficulty=0.7)  # what the shipped network was trained on


@pytest.fixture(scope="module")
def network():
    return load_scene_network()


def scene_set(network, images):
    return SceneSet(read_scenes(network, images), np.zeros(len(images), int))


def scene_moments(network, images):
    return scene_set(network, images).moments


@pytest.fixture(scope="module")
def real():
    return render(SCENES, SCENES.validation_indices[:480])


@pytest.fixture(scope="module")
def reference(network):
    return scene_moments(network, render(SCENES, SCENES.train_indices[:480]).image)


def test_features_are_read_as_their_images_are(network, real):
    read = read_scenes(network, real.image[:70])
    labels = real.label[:70]
    again = SceneSet.of(network, np.asarray(read.features), labels).reading
    for got, expected in zip(
        jax.tree.leaves(again), jax.tree.leaves(read), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_real_halves_are_near_and_damaged_scenes_far_in_mind_as_in_moments(
    network, real
):
    half = scene_set(network, real.image[::2])
    other, worse = (
        scene_set(network, images)
        for images in (real.image[1::2], damaged(real.image[1::2], "blur", 1))
    )
    near, far = (mind(half.projections, some.projections) for some in (other, worse))
    assert far > 3 * near


def test_agreement_by_hand():
    # Seen: shapes 0, 1, 2 and colors 3, 3, 5. Asked: 0/3, 1/4, 3/5.
    logits = {"shape": np.eye(4)[[0, 1, 2]], "color": np.eye(6)[[3, 3, 5]]}
    reading = Reading(np.zeros((3, 2)), logits)
    labels = np.array([0, 1, 3]) * len(COLORS) + np.array([3, 4, 5])
    assert conditional_accuracy(reading, labels) == {
        "shape accuracy": pytest.approx(2 / 3),
        "color accuracy": pytest.approx(2 / 3),
        "class accuracy": pytest.approx(1 / 3),
    }
    # Generators that know colors alone number their labels by them.
    color = conditional_accuracy(reading, np.array([3, 4, 5]), "color")
    assert color == {"color accuracy": pytest.approx(2 / 3)}
    assert conditional_accuracy(reading, np.zeros(3, int), "none") == {}


def test_a_shape_counts_as_recognizable_where_the_network_is_sure():
    sure, unsure = np.log([0.96, 0.02, 0.02]), np.log([0.8, 0.1, 0.1])
    logits = {"shape": np.stack([sure + 100, unsure - 100, unsure, unsure])}
    reading = Reading(np.zeros((4, 2)), logits)
    assert recognizable_share(reading, "shape") == pytest.approx(1 / 4)


def test_what_is_left_out_drifts_by_its_share():
    reading = Reading(np.zeros((4, 2)), {"texture": np.eye(4)[[0, 0, 2, 3]]})
    drift = attribute_total_variation(
        reading, {"texture": np.array([0, 1, 2, 3, 0, 1, 2, 3])}
    )
    assert drift == {"texture": pytest.approx(0.25)}
    same = attribute_total_variation(reading, {"texture": np.array([3, 2, 0, 0])})
    assert same == {"texture": 0.0}


def test_weights_make_attributes_as_frequent_as_in_the_reference(network, real):
    reference = read_scenes(network, real.image)
    seen = predictions(reference)
    # Without yellow, and few stars and large objects.
    rng = np.random.default_rng(0)
    rare = (seen["shape"] == 3) | (seen["size"] == 1)
    kept = (seen["color"] != 2) & (~rare | (rng.random(len(rare)) < 0.3))
    some = read_scenes(network, real.image[kept])
    weights = attribute_weights(some, reference)
    assert weights.mean() == pytest.approx(1)
    for name, values in predictions(some).items():
        goal, before = shares(name, seen[name]), shares(name, values)
        both = (goal > 0) & (before > 0)
        goal = np.where(both, goal, 0) / goal[both].sum()
        np.testing.assert_allclose(shares(name, values, weights), goal, atol=1e-6)
    assert shares("shape", predictions(some)["shape"])[3] < 0.17  # of 1/4
    # What is missing is not made up for, and what was rare is.
    whole = Moments.of(reference.features)
    plain, weighted = (
        frechet_distance(Moments.of(some.features, w), whole) for w in (None, weights)
    )
    assert weighted < plain
    np.testing.assert_allclose(attribute_weights(reference, reference), 1, rtol=1e-9)


def test_weights_of_sets_that_share_no_value_are_one():
    of = lambda shape: Reading(np.zeros((3, 2)), {"shape": np.eye(4)[[shape] * 3]})
    np.testing.assert_array_equal(attribute_weights(of(0), of(1)), 1)


def test_real_scenes_obey_their_own_labels_and_no_others(network, real):
    reading = read_scenes(network, real.image)
    own, others = (
        conditional_accuracy(reading, labels)["class accuracy"]
        for labels in (real.label, real.label[::-1])
    )
    assert own > 0.95
    assert others < 0.2
    assert recognizable_share(reading, "shape") > 0.9


def test_the_shipped_network_reads_every_attribute(network, real):
    agreement = attribute_agreement(read_scenes(network, real.image), real.attributes)
    assert min(agreement.values()) > 0.95, agreement


def damaged(images, kind, strength):
    """Images made worse, the more so the greater `strength`."""
    pixels = images / np.float32(255)
    if kind == "blur":
        pixels = gaussian_filter(pixels, (0, strength, strength, 0))
    elif kind == "noise":
        noise = np.random.default_rng(0).normal(size=pixels.shape)
        pixels = pixels + 0.1 * strength * noise
    elif kind == "blocks":
        side = 2 * strength
        coarse = pixels[:, side // 2 :: side, side // 2 :: side]
        pixels = coarse.repeat(side, axis=1).repeat(side, axis=2)
    elif kind == "fading":
        pixels = 0.5 + (pixels - 0.5) * 0.6**strength
    return as_bytes(pixels)


@pytest.mark.parametrize("kind", ["blur", "noise", "blocks", "fading"])
def test_worse_images_are_farther(kind, network, real, reference):
    distances = [
        frechet_distance(scene_moments(network, image), reference)
        for image in (real.image, *(damaged(real.image, kind, s) for s in (1, 2, 4)))
    ]
    assert distances == sorted(distances), distances
    assert distances[-1] > 3 * distances[0]


def test_missing_classes_are_farther(network, real, reference):
    kept = real.label % len(COLORS) < 3
    some, all_of_them = (
        frechet_distance(scene_moments(network, images), reference)
        for images in (real.image[kept], real.image)
    )
    assert some > 1.5 * all_of_them


def test_predictions_do_not_depend_on_the_scale_of_the_features(network, real):
    # Rectified features: what one layer gains, the next can lose.
    doubled = eqx.tree_at(
        lambda n: (n.to_features.weight, n.to_features.bias),
        network,
        (2 * network.to_features.weight, 2 * network.to_features.bias),
    )
    before = read_scenes(network, real.image[:64])
    after = read_scenes(doubled, real.image[:64])
    np.testing.assert_allclose(after.features, 2 * before.features, rtol=1e-4)
    assert predictions(before).keys() == predictions(after).keys()
