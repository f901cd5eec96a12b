"""The whole panel: of arrays, of a tokenizer, its errors, and what it leaves out."""

import dataclasses
import io
from pathlib import Path
import re

import jax
import numpy as np
from PIL import Image
import pytest
from rich.console import Console

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation import card, decoder_continuity, latent_diagnosis
from vtp_eqx.evaluation.diagnosis_options import DiagnosisOptions, SCENES
from vtp_eqx.evaluation.equivariance import (
    equivariance_error,
    half_size,
    mirrored,
    quarter_turn,
    TRANSFORMS,
)
from vtp_eqx.evaluation.extract import ExtractConfig, FeatureTable
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.intervals import flat_numbers
from vtp_eqx.evaluation.latent_diagnosis import better, CARD, diagnose, PICTURE
from vtp_eqx.evaluation.latent_panel import diagnose_latents
from vtp_eqx.evaluation.latent_picture import component_colors
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.evaluation.networks import scene_features
from vtp_eqx.losses.latents import smoothness_loss
from vtp_eqx.scenes.render import object_masks, render, SceneConfig


COUNT = 160


@pytest.fixture(scope="module")
def arrays():
    draw = np.random.default_rng(0)
    labels = np.arange(COUNT) % 4
    latents = draw.normal(size=(COUNT, 4, 4, 5)) @ draw.normal(size=(5, 5))
    latents[..., 0] += 4 * labels[:, None, None]
    masks = np.zeros((COUNT, 8, 8), bool)
    masks[:, :4, :4] = True
    return latents.astype(np.float32), labels, masks


def values(found):
    return {name: of.value for name, of in found.panel.items()}


@pytest.fixture(scope="module")
def full(arrays):
    latents, labels, masks = arrays
    return diagnose_latents(latents, labels=labels, masks=masks)


def test_every_number_has_an_interval_and_a_count(full):
    for name, of in full.panel.items():
        assert of.low <= of.value <= of.high, name
        assert np.isfinite([of.low, of.high]).all(), name
        assert of.count == 4 * (name.startswith("VIV") and "pooled" not in name) or (
            of.count in (COUNT, COUNT // 4)
        ), name
    assert full.omitted.keys() == {
        "VIV exact", "LDS 4 neighbors, raw", "LDS 4 neighbors, centered"
    }  # fmt: skip
    assert {better(name) for name in full.panel} == {"lower", "higher", ""}


def test_it_knows_no_scale_no_offset_and_no_order(arrays, full):
    """Channels are standardized: only the raw cosines see what they were."""
    latents, labels, masks = arrays
    expected = values(full)
    scales = np.array([1, 10, 0.1, 3, 2], np.float32)
    moved = values(diagnose_latents(scales * latents + 2, labels=labels, masks=masks))
    for name in expected:
        if "raw" not in name:
            assert moved[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-3), (
                name
            )
    names = dict(zip(range(4), (3, 9, 0, 5), strict=True))
    others = np.array([names[label] for label in labels.tolist()])
    renamed = values(diagnose_latents(latents, labels=others, masks=masks))
    for name in expected:
        if "probe" not in name:  # fitted from a start that knows classes by number
            assert renamed[name] == pytest.approx(expected[name], rel=1e-6), name


def test_numbers_that_others_have_are_theirs(arrays, full):
    latents, *_ = arrays
    expected = float(np.mean(smoothness_loss(jax.numpy.asarray(latents))))
    assert full.panel["Geary's C"].value == pytest.approx(expected, rel=1e-5)


def test_shuffled_labels_tell_nothing(arrays, full):
    latents, labels, masks = arrays
    shuffled = np.random.default_rng(1).permutation(labels)
    found = diagnose_latents(latents, labels=shuffled, masks=masks).panel
    assert abs(found["LNC@10 over chance"].value) < 0.1
    assert full.panel["LNC@10 over chance"].value > 0.3
    assert found["VIV spread"].value == pytest.approx(1, abs=0.03)
    assert full.panel["VIV spread"].value < 0.95


def test_what_cannot_be_measured_is_named(arrays):
    latents, labels, masks = arrays
    found = diagnose_latents(latents)
    assert {key: why for key, why in found.omitted.items() if "LDS" not in key} == {
        "what needs labels": "the images have none",
        "what needs masks": "none were given",
    }
    assert not any(
        name.startswith(("VIV", "LNC", "SRSS", "lin")) for name in found.panel
    )
    of_one = diagnose_latents(latents, labels=0 * labels, masks=masks | True)
    assert {key: why for key, why in of_one.omitted.items() if "LDS" not in key} == {
        "what needs labels": "160 images have 1 classes",
        "SRSS": "no object has background that is far from it",
    }
    cell = diagnose_latents(latents[:, :1, :1], labels=labels)
    assert cell.omitted["what needs a grid"] == "latents have one cell"
    assert "VIV" in cell.panel
    assert "SEC 0.5" not in cell.panel


def test_dead_channels_are_left_out_and_counted(arrays):
    latents, labels, masks = arrays
    dead = np.concatenate([latents, 1e-7 * latents[..., :2] + 3], axis=-1)
    found = diagnose_latents(dead, labels=labels, masks=masks)
    expected = values(diagnose_latents(latents, labels=labels, masks=masks))
    assert values(found) == pytest.approx(expected)
    assert "2 channels that hardly vary are left out" in found.notes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda z: np.where(np.arange(5) == 1, np.nan, z),
            "160 of 160 images have NaN",
        ),
        (lambda z: z[:20], r"\(20 images\) must be of 40 or more"),
        (lambda z: 0 * z, "must vary: this encoder ignores its images"),
    ],
)
def test_latents_that_cannot_be_diagnosed(arrays, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        diagnose_latents(change(arrays[0]))


def test_errors_of_equivariance():
    draw = np.random.default_rng(2)
    latents, others = draw.normal(size=(2, 2000, 2, 2, 3)).astype(np.float32)
    ones = np.ones(3)
    for name, transform in TRANSFORMS.items():
        turned, unrelated = (
            np.stack([transform(grid) for grid in grids]) for grids in (latents, others)
        )
        squares = lambda step: np.sum(step**2, axis=(1, 2))
        alike = equivariance_error(name, squares(turned - turned), latents, ones)
        assert alike.value == 0
        far = equivariance_error(name, squares(unrelated - turned), latents, ones)
        assert far.value == pytest.approx(2, rel=0.1)


def test_transforms_by_hand():
    grid = np.arange(4.0).reshape(2, 2, 1)
    assert half_size(grid).ravel().tolist() == [1.5]
    assert quarter_turn(grid).ravel().tolist() == [1, 3, 0, 2]
    assert mirrored(grid).ravel().tolist() == [1, 0, 3, 2]


def test_components_are_colors_around_gray():
    draw = np.random.default_rng(3)
    latents = draw.normal(size=(500, 1, 2, 2)) * [1, 5]
    colors = component_colors(latents, latents, 3)
    # The first component is the second channel, and there is no third.
    expected = np.clip(0.5 + latents[..., 1] / (2 * 2 * 5), 0, 1)
    np.testing.assert_allclose(colors[..., 0], expected, atol=0.05)
    assert (colors[..., 2] == 0.5).all()


@pytest.fixture(scope="module")
def drawn():
    config = SceneConfig()
    scenes = render(config, np.arange(72))
    return scenes, object_masks(config, np.arange(72))


def test_a_tokenizer_is_diagnosed(tokenizer, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("vtp_eqx.evaluation.latent_diagnosis.NUM_IMAGES", 6)
    monkeypatch.setattr(decoder_continuity, "BATCH", 6)
    scenes, masks = drawn
    source = ArraySource({"image": scenes.image, "label": scenes.label // 6})
    tokenizer, _ = measure_latents(tokenizer, source)
    images = Images(source=source, crop=CenterCrop(32), limit=60)
    place = ExtractConfig(folder=tmp_path, batch_size=20, mesh=None)
    found = diagnose(tokenizer, images, place, network=scene_features(), masks=masks)
    numbers, written = card.read(tmp_path / CARD)
    assert numbers == pytest.approx(flat_numbers(found.panel))
    assert {"PSNR", "SRSS", "VIV", "LPC pixels", "LPC features"} <= numbers.keys()
    assert numbers["equivariance error, half size"] > 0
    assert numbers["LPC pixels N"] == 6
    assert (written.num_samples, written.feature_network) == (60, "scene-network")
    assert "standardized as for generators" in written.protocol
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.size[0] == 1500
    with pytest.raises(ValueError, match=r"`masks` \(71\).*72 images"):
        diagnose(tokenizer, images, place, masks=masks[1:])


def test_masks_are_of_the_objects(drawn):
    """Where the object is, the image differs from its corners, and has its color."""
    scenes, masks = drawn
    assert masks.shape == (72, 32, 32)
    sizes = masks.mean(axis=(1, 2))
    large = scenes.attributes["size"] == 1
    assert sizes[large].min() > sizes[~large].mean() > 0.05
    columns = (masks * np.arange(32)).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))
    left, right = (scenes.attributes["position"] == value for value in (1, 2))
    assert columns[left].max() < columns[right].min()
    red = (scenes.attributes["color"] == 0)[:, None, None] & masks
    assert scenes.image[red].mean(axis=0)[0] > 2 * scenes.image[red].mean(axis=0)[1]


def options(**changes):
    return DiagnosisOptions(tokenizer="", **changes)


def test_scenes_are_drawn_where_there_is_no_data():
    images, masks = options(limit=48).images_and_masks(32)
    assert (len(images.rows), masks.shape) == (48, (48, 32, 32))
    assert images.source[0]["label"] < 24
    few = dataclasses.replace(SCENES, num_validation=48)
    with pytest.raises(ValueError, match=r"^`limit` takes some of the 48 images"):
        options(limit=49, scenes=few).images_and_masks(32)
    with pytest.raises(ValueError, match=r"^`scenes` \(.*\) are drawn in place of"):
        options(data=Path("here"), scenes=few)


def test_masks_are_read_and_refused(tmp_path):
    data, masks = tmp_path / "data.npz", tmp_path / "masks.npz"
    np.savez(data, arr_0=np.zeros((50, 32, 32, 3), np.uint8))
    np.savez(masks, arr_0=np.full((50, 4, 4), 255, np.uint8))
    images, found = options(data=data, masks=masks).images_and_masks(32)
    assert images.limit == 50
    assert found.all()
    np.savez(masks, arr_0=np.zeros(3))
    with pytest.raises(ValueError, match=r"\[count, side, side\]; got \(3,\)"):
        options(data=data, masks=masks).images_and_masks(32)
    masks.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"must be a whole \.npz"):
        options(data=data, masks=masks).images_and_masks(32)
    with pytest.raises(ValueError, match=r"--data"):
        options(masks=masks).images_and_masks(32)


def test_a_network_of_the_images_size_is_taken():
    assert options().network_for(64).image_size == 64
    assert options().network_for(48).image_size == 32


def test_a_panel_is_printed_with_what_was_left_out(full, monkeypatch):
    printed = Console(width=100, record=True, file=io.StringIO())
    monkeypatch.setattr("vtp_eqx.evaluation.diagnosis_options.console", printed)
    options(out=Path("there")).show(full)
    text = printed.export_text()
    row = r"VIV shape +│ +0\.\d{4} │ +0\.\d{4} \.\. \d\.\d{4} │ +4 │ +lower"
    assert re.search(row, text)
    assert "3 numbers were left out: VIV exact (a class takes 2 images" in text
    assert "there/card_diagnosis.json" in text


@pytest.mark.parametrize(
    ("labels", "found"), [([0, 1, 2], [0, 1, 2]), ([0, -1, 2], None), (None, None)]
)
def test_labels_that_some_images_lack_are_none(labels, found):
    arrays = {"row": np.arange(3)}
    if labels is not None:
        arrays["label"] = np.array(labels)
    classes = latent_diagnosis._labels(FeatureTable(arrays=arrays))
    assert (None if classes is None else classes.tolist()) == found
