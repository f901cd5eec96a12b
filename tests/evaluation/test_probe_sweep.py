import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from PIL import Image
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.options import ProbeOptions
from vtp_eqx.evaluation.probe_sweep import (
    accuracies,
    augmented_batches,
    Linears,
    probe_sweep,
    start,
    step,
    Sweep,
    SweepConfig,
)
from vtp_eqx.mesh import data_mesh


CONFIG = SweepConfig(rates=(0.1, 1.0), batch_size=8, num_epochs=2, epoch_steps=5)
SMALL = SweepConfig(
    rates=(1e-3, 1.0), batch_size=24, num_epochs=3, epoch_steps=4, augment=False
)


def test_rates_scale_with_the_batch_and_fall_by_cosine_to_zero():
    config = SweepConfig(rates=(0.1, 0.2), batch_size=1024, num_epochs=2, epoch_steps=2)
    np.testing.assert_allclose(config.rates_at(0), [0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(config.rates_at(2), [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(config.rates_at(4), [0, 0], atol=1e-7)
    assert len(SweepConfig().rates) == 13
    assert SweepConfig().num_steps == 12500


def test_one_step_by_hand():
    # Weight 0: shares (1/2, 1/2), gradient of the logits (-1/2, 1/2) for label 0.
    linears = {"a": Linears(jnp.zeros((2, 1, 2)), jnp.zeros((2, 2)))}
    sweep = Sweep(linears, jax.tree.map(jnp.ones_like, linears))
    after = step(
        sweep, {"a": jnp.array([[3.0]])}, jnp.array([0]), jnp.array([0.1, 1.0]), 0.9
    )
    # Velocity 0.9 + 3 * (-1/2, 1/2) = (-0.6, 2.4); weight minus rate times that.
    np.testing.assert_allclose(
        after.linears["a"].weight[:, 0], [[0.06, -0.24], [0.6, -2.4]], rtol=1e-6
    )
    np.testing.assert_allclose(after.velocity["a"].bias, [[0.4, 1.4]] * 2, rtol=1e-6)


def test_classifiers_side_by_side_learn_as_each_alone():
    key = jr.key(0)
    rows = jr.normal(key, (8, 4))
    labels = jnp.arange(8) % 3
    widths = {"a": 4, "b": 2}
    sweep = start(CONFIG, widths, 3, key=key)
    weights = [
        (sweep.linears["b"].weight[i], sweep.linears["b"].bias[i]) for i in (0, 1)
    ]
    rates = jnp.asarray(CONFIG.rates)
    for _ in range(3):
        sweep = step(sweep, {"a": rows, "b": rows[:, :2]}, labels, rates, 0.9)

    def loss(pair):
        logits = rows[:, :2] @ pair[0] + pair[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    for index, pair in enumerate(weights):
        optimizer = optax.sgd(CONFIG.rates[index], momentum=0.9)
        state = optimizer.init(pair)
        for _ in range(3):
            updates, state = optimizer.update(jax.grad(loss)(pair), state)
            pair = optax.apply_updates(pair, updates)
        np.testing.assert_allclose(sweep.linears["b"].weight[index], pair[0], atol=1e-6)
        np.testing.assert_allclose(sweep.linears["b"].bias[index], pair[1], atol=1e-6)


def test_accuracy_by_hand(monkeypatch):
    # Rate 0.1 copies the features to the logits, rate 1 swaps them.
    weight = jnp.stack([jnp.eye(2), jnp.eye(2)[::-1]])
    sweep = Sweep({"a": Linears(weight, jnp.zeros((2, 2)))}, {})
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], np.float32)
    labels = np.array([0, 1, 1])
    monkeypatch.setattr("vtp_eqx.evaluation.probe_sweep.EVALUATED", 2)
    got = accuracies(sweep, CONFIG, {"a": rows}, labels)
    assert got == {
        "a, rate 0.1": pytest.approx(2 / 3),
        "a, rate 1": pytest.approx(1 / 3),
    }


def test_a_sweep_without_steps_or_rates_is_refused():
    for changes in ({"rates": ()}, {"rates": (0.0,)}, {"num_epochs": 0}):
        with pytest.raises(ValueError, match="positive"):
            SweepConfig(**changes)


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


@pytest.mark.parametrize("augment", [False, True])
def test_a_probe_finds_what_features_show_and_goes_on_where_it_was_killed(
    augment, tokenizer, images, tmp_path
):
    config = dataclasses.replace(SMALL, augment=augment)
    options = dict(reads="last", config=config)
    place = workplace(tmp_path / "whole")
    whole = probe_sweep(tokenizer, images, images, place, **options)
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
        probe_sweep(
            tokenizer, images, images, workplace(tmp_path / "killed", report=kill),
            **options,
        )  # fmt: skip
    steps = []
    place = workplace(
        tmp_path / "killed",
        report=lambda stage, done, _: steps.append(done) if stage == "probe" else None,
    )
    assert probe_sweep(tokenizer, images, images, place, **options) == whole
    assert steps == list(range(5, 13))
    assert json.loads((place.folder / "probe.json").read_text()) == every


def test_devices_do_not_change_a_probe(tokenizer, images, tmp_path):
    numbers = [
        probe_sweep(
            tokenizer, images, images, workplace(tmp_path / str(count), mesh=mesh),
            reads="mean latents", config=SMALL,
        )
        for count, mesh in ((0, None), (1, data_mesh(1)), (2, data_mesh(2)))
    ]  # fmt: skip
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03)
    assert numbers[0] == pytest.approx(numbers[2], abs=0.03)


def test_an_unreadable_training_image_is_replaced(tokenizer, tmp_path):
    for index in range(8):
        path = tmp_path / "images" / "ab"[index // 4] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 30 * index, np.uint8)).save(path)
    source = FolderSource(tmp_path / "images")
    (tmp_path / "images" / "a" / "3.png").write_bytes(b"torn")
    config = dataclasses.replace(SMALL, batch_size=8, augment=True)
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
        probe_sweep(tokenizer, *sources, workplace(tmp_path / "out"))


def test_what_describes_a_sweep_is_refused_where_there_is_none():
    options = dict(tokenizer="t", data=Path("x"), train=Path("y"))
    few = SweepConfig(num_epochs=1)
    assert ProbeOptions(**options, config=few).config == few
    with pytest.raises(ValueError, match=r"^`config` .*`fit` \('lbfgs'\) is none"):
        ProbeOptions(**options, config=few, fit="lbfgs")
