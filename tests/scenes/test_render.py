import dataclasses
import itertools

from hypothesis import given, strategies as st
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import short_hash
from vtp_eqx.scenes.captions import BACKGROUNDS, class_templates, prompts, TEXTURES
from vtp_eqx.scenes.render import (
    class_names,
    COLORS,
    GROUP,
    NAMES,
    NUM_CLASSES,
    render,
    SceneConfig,
    SHAPES,
    write_folders,
)


EASY = SceneConfig(num_train=48, num_validation=24)
HARD = SceneConfig(num_train=48, num_validation=24, difficulty=1)
EVERY = {name: np.arange(len(values)) for name, values in NAMES.items()}
SEEDS = st.integers(0, 2**31 - 1)
CONFIGS = st.sampled_from([EASY, HARD])


def _rows(scenes, rows):
    values = {name: column[rows] for name, column in scenes.attributes.items()}
    captions = [scenes.caption[row] for row in rows]
    return scenes.image[rows], captions, scenes.label[rows], values


@given(config=CONFIGS, start=SEEDS, order=st.permutations(range(5)))
def test_a_scene_does_not_depend_on_the_scenes_rendered_with_it(config, start, order):
    indices = start + np.arange(5)
    together = _rows(render(config, indices), order)
    shuffled = _rows(render(config, indices[order]), list(range(5)))
    alone = _rows(render(config, indices[order[:1]]), [0])
    np.testing.assert_equal(shuffled, together)
    np.testing.assert_equal(alone, _rows(render(config, indices), order[:1]))


def test_rendering_more_than_one_chunk_changes_nothing():
    indices = np.arange(150)
    scenes = render(EASY, indices)
    np.testing.assert_array_equal(scenes.image[130:], render(EASY, indices[130:]).image)


@given(config=CONFIGS, group=st.integers(0, 2**28))
def test_a_group_shares_all_that_a_caption_names_except_the_shape(config, group):
    scenes = render(config, GROUP * group + np.arange(GROUP))
    for name, values in scenes.attributes.items():
        if name == "shape":
            assert sorted(values) == list(range(GROUP))
        else:
            assert len(set(values)) == 1, name
    pixels = scenes.image.reshape(GROUP, -1)
    assert len(np.unique(pixels, axis=0)) == GROUP


@given(config=CONFIGS, start=SEEDS)
def test_a_caption_is_short_and_names_every_attribute(config, start):
    scenes = render(config, start + np.arange(8))
    synonyms = {"circle": "disk", "square": "box", "checkered": "checked"}
    synonyms |= {"dotted": "spotted", "small": "little", "large": "big"}
    synonyms |= {"center": "middle"}
    for row, caption in enumerate(scenes.caption):
        words = caption.replace(",", "").split()
        assert len(words) <= 14
        for name, values in NAMES.items():
            word = values[scenes.attributes[name][row]]
            assert word in words or synonyms.get(word) in words, (caption, word)
        if scenes.attributes["relation"][row]:
            second = COLORS[scenes.attributes["second_color"][row]]
            assert f"{second} {SHAPES[scenes.attributes['second_shape'][row]]}" in (
                caption
            )


def test_an_attribute_is_never_named_beside_its_contrary():
    # Texture and background are the words that every template must not mix up.
    scenes = render(EASY, np.arange(400))
    for row, caption in enumerate(scenes.caption):
        texture = TEXTURES[scenes.attributes["texture"][row]]
        background = BACKGROUNDS[scenes.attributes["background"][row]]
        wrong = (set(TEXTURES) | set(BACKGROUNDS)) - {texture, background}
        assert not wrong & set(caption.replace(",", "").split())


def test_classes_are_equally_frequent_in_both_splits():
    for indices in (EASY.train_indices, EASY.validation_indices):
        counts = np.bincount(render(EASY, indices).label, minlength=NUM_CLASSES)
        assert set(counts) == {len(indices) // NUM_CLASSES}


def test_attributes_are_about_uniform_and_independent_of_the_class():
    scenes = render(EASY, np.arange(6000))
    for name, values in NAMES.items():
        shares = np.bincount(scenes.attributes[name], minlength=len(values)) / 6000
        np.testing.assert_allclose(shares, 1 / len(values), atol=0.04)


def test_the_label_names_shape_and_color():
    scenes = render(EASY, np.arange(24))
    for row, label in enumerate(scenes.label):
        color = COLORS[scenes.attributes["color"][row]]
        shape = SHAPES[scenes.attributes["shape"][row]]
        assert class_names()[label] == f"{color} {shape}"


def test_splits_are_disjoint_and_validation_outlives_a_change_of_size():
    assert not set(EASY.train_indices) & set(EASY.validation_indices)
    larger = SceneConfig(num_train=480, num_validation=24)
    np.testing.assert_array_equal(larger.validation_indices, EASY.validation_indices)


def test_hard_scenes_have_a_second_object_in_about_half_of_the_groups():
    relation = render(HARD, GROUP * np.arange(400)).attributes["relation"]
    assert 0.42 < (relation > 0).mean() < 0.58
    assert not render(EASY, np.arange(400)).attributes["relation"].any()


def test_a_second_object_is_not_beyond_the_border_and_has_another_color():
    attributes = render(HARD, GROUP * np.arange(400)).attributes
    paired = attributes["relation"] > 0
    assert (attributes["relation"] != attributes["position"])[paired].all()
    assert (attributes["second_color"] != attributes["color"]).all()


def test_size_changes_the_resolution_and_not_the_scene():
    small = render(EASY, np.arange(16))
    large = render(SceneConfig(size=64), np.arange(16))
    assert small.caption == large.caption
    pooled = large.image.reshape(16, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(pooled - small.image).mean() < 6


def test_the_color_of_the_object_is_seen_at_its_place():
    scenes = render(SceneConfig(difficulty=0.0), GROUP * np.arange(200))
    central = (scenes.attributes["position"] == 0).nonzero()[0]
    middle = scenes.image[central, 14:18, 14:18].mean(axis=(1, 2))
    red, _, blue = middle.T
    color = scenes.attributes["color"][central]
    assert (red > blue + 60)[color == COLORS.index("red")].all()
    assert (blue > red + 60)[color == COLORS.index("blue")].all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 8}, "16 pixels"),
        ({"difficulty": 1.5}, "between 0 and 1"),
        ({"num_train": 100}, "multiple of 24"),
        ({"num_validation": 0}, "multiple of 24"),
    ],
)
def test_an_impossible_config_says_what_is_possible(fields, message):
    with pytest.raises(ValueError, match=message):
        SceneConfig(**fields)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_differ_in_nothing_but_the_attribute_asked_for(name):
    asked = prompts(name, 8, EVERY)
    assert len(asked) == len(NAMES[name])
    for alternatives in zip(*asked, strict=True):
        assert len(set(alternatives)) == len(NAMES[name])
        words = [set(caption.replace(",", "").split()) for caption in alternatives]
        shared = set.intersection(*words)
        others = {
            word for other, words in NAMES.items() if other != name for word in words
        }
        # What two captions do not share is no word of another attribute.
        assert all(not ((said - shared) & others) for said in words)


def test_scenes_are_written_into_the_folders_of_their_classes(tmp_path):
    scenes = render(SceneConfig(size=16), np.array([3, 40]))
    write_folders(scenes, tmp_path)
    names = [class_names()[label] for label in scenes.label]
    for name, index, image in zip(names, scenes.index, scenes.image, strict=True):
        with Image.open(tmp_path / name / f"{index}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_templates_are_captions_of_any_class():
    templates = class_templates(40)
    assert len(set(templates)) > 30
    for line in templates:
        assert line.count("{}") == 1
        assert "triangle" not in line
        assert any(name in line for name in BACKGROUNDS)


def test_scenes_of_some_textures_have_those_alone_and_equally_often():
    some = dataclasses.replace(EASY, textures=("plain", "dotted"))
    drawn = render(some, np.arange(1200)).attributes["texture"]
    names, counts = np.unique(drawn, return_counts=True)
    assert [TEXTURES[name] for name in names] == ["plain", "dotted"]
    assert abs(counts[0] - 600) < 120  # of 300 groups: four deviations and more
    # All of them is what there was before one could choose.
    assert short_hash(dataclasses.replace(EASY, textures=TEXTURES)) == short_hash(EASY)


def test_prompts_say_what_the_scenes_have_and_nothing_else():
    texture = np.array([TEXTURES.index("plain"), TEXTURES.index("dotted")])
    some = {**EVERY, "texture": texture}
    assert len(prompts("texture", 30, some)) == 2
    for name in NAMES:
        said = " ".join(itertools.chain(*prompts(name, 30, some)))
        assert "striped" not in said
        assert "check" not in said
        assert "plain" in said


@pytest.mark.parametrize("textures", [(), ("plain", "plain"), ("furry",)])
def test_textures_that_are_none_are_refused(textures):
    with pytest.raises(ValueError, match="`textures` are some of"):
        SceneConfig(textures=textures)


def test_validation_scenes_of_different_groups_have_all_classes_equally_often():
    config = SceneConfig(num_train=480, num_validation=480, validation_in_groups=False)
    indices = config.validation_indices
    assert len(np.unique(indices // GROUP)) == len(indices) == 480
    assert not np.isin(indices, config.train_indices).any()
    counts = np.bincount(render(config, indices).label, minlength=24)
    np.testing.assert_array_equal(counts, 20)
