import dataclasses
import json

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.extract import ExtractConfig, Images
from vtp_eqx.evaluation.linear_probe import (
    augmented_batches,
    blocks,
    last,
    latents,
    mean_latents,
    probe,
)
from vtp_eqx.evaluation.probe_sweep import SweepConfig
from vtp_eqx.mesh import data_mesh


CONFIG = SweepConfig(
    rates=(1e-3, 1.0), batch_size=24, num_epochs=3, epoch_steps=4, augment=False
)


def workplace(folder, **changes):
    options = dict(batch_size=24, num_threads=2, mesh=data_mesh(1))
    return ExtractConfig(folder=folder, **{**options, **changes})


@pytest.fixture(scope="module")
def images(scenes):
    """Scenes whose label is whether they are bright, which any feature shows."""
    pixels = scenes.arrays["image"]
    bright = pixels.mean(axis=(1, 2, 3))
    shown = np.uint8(np.clip(pixels // 2 + 100 * (bright > np.median(bright))[:, None,
        None, None], 0, 255))  # fmt: skip
    source = ArraySource(
        {"image": shown, "label": np.int64(bright > np.median(bright))}
    )
    return Images(source=source, crop=CenterCrop(32))


def test_what_is_read_is_what_the_protocols_say(tokenizer):
    image = jnp.linspace(0, 1, 32 * 32 * 3).reshape(32, 32, 3)
    first, final = tokenizer.features(image, 2)
    patches = final.patches.mean(axis=0)
    got = blocks(tokenizer, image)  # two blocks are all it has
    np.testing.assert_allclose(got["1 blocks"], np.r_[final.cls, patches], atol=1e-6)
    np.testing.assert_allclose(
        got["2 blocks"], np.r_[first.cls, final.cls, patches], atol=1e-6
    )
    np.testing.assert_allclose(last(tokenizer, image)["mean patch"], patches, atol=1e-6)
    grid = tokenizer.encode(image)
    assert latents(tokenizer, image)["latents"].shape == (4 * 4 * 8,)
    np.testing.assert_allclose(
        mean_latents(tokenizer, image)["mean latents"],
        grid.mean(axis=(0, 1)),
        atol=1e-6,
    )


@pytest.mark.parametrize("augment", [False, True])
def test_a_probe_finds_what_features_show_and_goes_on_where_it_was_killed(
    augment, tokenizer, images, tmp_path
):
    config = dataclasses.replace(CONFIG, augment=augment)
    options = dict(reads="last", config=config)
    place = workplace(tmp_path / "whole")
    whole = probe(tokenizer, images, images, place, **options)
    assert whole["linear probe, mean patch"] > 0.9
    _, card = read(place.folder / "card_probe.json")
    assert "on the test images" in card.protocol
    assert ("RandomCrop" in card.protocol) == augment
    every = json.loads((place.folder / "probe.json").read_text())
    assert len(every) == 3
    assert len(every[0]) == 4
    chosen = max(e[n] for e in every for n in e if n.startswith("mean patch"))
    assert whole["linear probe, mean patch"] == chosen

    def kill(stage, done, total):
        if stage == "probe" and done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(
            tokenizer, images, images, workplace(tmp_path / "killed", report=kill),
            **options,
        )  # fmt: skip
    steps = []
    place = workplace(
        tmp_path / "killed",
        report=lambda stage, done, _: steps.append(done) if stage == "probe" else None,
    )
    assert probe(tokenizer, images, images, place, **options) == whole
    assert steps == list(range(5, 13))
    assert json.loads((place.folder / "probe.json").read_text()) == every


def test_devices_do_not_change_a_probe(tokenizer, images, tmp_path):
    numbers = [
        probe(
            tokenizer, images, images, workplace(tmp_path / str(count), mesh=mesh),
            reads="mean latents", config=CONFIG,
        )
        for count, mesh in ((1, data_mesh(1)), (2, data_mesh(2)))
    ]  # fmt: skip
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03)


def test_an_unreadable_training_image_is_replaced(tokenizer, tmp_path):
    for index in range(8):
        path = tmp_path / "images" / "ab"[index // 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 30 * index, np.uint8)).save(path)
    source = FolderSource(tmp_path / "images")
    (tmp_path / "images" / "a" / "3.png").write_bytes(b"torn")
    config = dataclasses.replace(CONFIG, batch_size=8, augment=True)
    train = Images(source=source, crop=CenterCrop(32))
    batches = augmented_batches(
        tokenizer, "mean latents", train, workplace(tmp_path / "out"), config, 0
    )
    _, labels = next(batches)
    assert sorted(labels) == [0, 0, 0, 1, 1, 1, 1, 1]


def test_sets_of_other_classes_are_refused(tokenizer, images, tmp_path):
    sources = []
    for name in ("one", "two"):
        path = tmp_path / name / f"class {name}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
        sources.append(Images(source=FolderSource(tmp_path / name), crop=images.crop))
    with pytest.raises(ValueError, match="same classes"):
        probe(tokenizer, *sources, workplace(tmp_path / "out"))
