import time

from hypothesis import given, settings, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.evaluation.knn import neighbor_accuracy
from vtp_eqx.evaluation.linear_probe import (
    blocks,
    fit,
    last,
    last_block,
    latents,
    linear_probe,
    mean_latents,
    probe_attributes,
)


seeds = st.integers(0, 2**31 - 1)


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
    np.testing.assert_array_equal(
        last_block(tokenizer, image)["1 blocks"], got["1 blocks"]
    )
    grid = tokenizer.encode(image)
    assert latents(tokenizer, image)["latents"].shape == (4 * 4 * 8,)
    np.testing.assert_allclose(
        mean_latents(tokenizer, image)["mean latents"],
        grid.mean(axis=(0, 1)),
        atol=1e-6,
    )


def clusters(seed, count=400, width=8, num_classes=4, spread=0.3):
    """Features around one center a class, and their labels."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, count)
    noise = spread * rng.normal(size=(count, width))
    return (centers[labels] + noise).astype(np.float32), labels


def halves(seed, **shape):
    rows, labels = clusters(seed, **shape)
    half = len(rows) // 2
    return rows[:half], labels[:half], rows[half:], labels[half:]


@pytest.mark.parametrize("score", [linear_probe, neighbor_accuracy])
def test_separate_classes_are_told_apart(score):
    assert score(*halves(0, spread=0.05)) == 1.0


@pytest.mark.parametrize("score", [linear_probe, neighbor_accuracy])
def test_features_that_know_nothing_are_at_chance(score):
    rng = np.random.default_rng(0)
    train, labels, test, answers = halves(0, count=2000)
    blind = rng.normal(size=train.shape), rng.normal(size=test.shape)
    assert score(blind[0], labels, blind[1], answers) == pytest.approx(0.25, abs=0.05)


def test_a_probe_without_features_learns_the_shares_of_classes():
    # Only the constant is left: softmax(weight) = (1/2, 1/4, 1/4).
    rows, labels = np.ones((8, 1), np.float32), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    weight = fit(rows, labels, np.zeros((1, 3), np.float32), 1e-3)
    shares = np.exp(weight[0]) / np.exp(weight[0]).sum()
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=1e-3)


def test_the_fit_is_stationary():
    rows, labels = clusters(0)
    rows = np.pad(rows, [(0, 0), (0, 1)], constant_values=1)
    weight = fit(rows, labels, np.zeros((9, 4), np.float32), 1e-2)
    logits = rows @ weight
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    gradient = rows.T @ (shares - np.eye(4)[labels]) / len(rows)
    gradient[:-1] += 1e-2 * weight[:-1]
    assert np.abs(gradient).max() < 2e-3


@settings(max_examples=4)
@given(seed=seeds)
def test_an_affine_change_of_every_feature_changes_no_probe(seed):
    train, labels, test, answers = halves(seed, count=200, spread=1.0)
    scale = np.array([1, 2, 4, 8, 0.5, 0.25, -1, -2], np.float32)
    plain = linear_probe(train, labels, test, answers)
    moved = linear_probe(train * scale + 3, labels, test * scale + 3, answers)
    assert moved == pytest.approx(plain, abs=0.03)


def test_a_probe_is_the_same_in_every_run():
    data = halves(0, spread=1.0)
    assert linear_probe(*data) == linear_probe(*data)


def test_a_feature_that_never_varies_does_no_harm():
    train, labels, test, answers = halves(0, spread=0.05)
    train[:, 0], test[:, 0] = 1e6, 1e6
    assert linear_probe(train, labels, test, answers) == 1.0


def test_training_rows_sorted_by_class_are_no_trouble():
    train, labels, test, answers = halves(0, spread=0.05)
    order = np.argsort(labels)
    assert linear_probe(train[order], labels[order], test, answers) == 1.0


def test_each_attribute_has_its_own_probe():
    rows, labels = clusters(0, spread=0.05)
    attributes = {"known": labels, "unknown": np.arange(400) % 2}
    half = {name: values[:200] for name, values in attributes.items()}
    rest = {name: values[200:] for name, values in attributes.items()}
    scores = probe_attributes(rows[:200], half, rows[200:], rest)
    assert scores["known"] == 1.0
    assert scores["unknown"] < 0.7


@pytest.mark.slow
def test_all_attributes_of_ten_thousand_rows_take_seconds():
    rng = np.random.default_rng(0)
    sizes = {"a": 4, "b": 6, "c": 2, "d": 5, "e": 4, "f": 5}
    answers = {name: rng.integers(0, size, 12_000) for name, size in sizes.items()}
    known = np.concatenate([np.eye(sizes[n])[answers[n]] for n in sizes], axis=1)
    rows = np.tanh(known @ rng.normal(size=(26, 128)))
    rows = (rows + 0.5 * rng.normal(size=rows.shape)).astype(np.float32)
    first = {name: values[:10_000] for name, values in answers.items()}
    last = {name: values[10_000:] for name, values in answers.items()}
    start = time.thread_time()
    scores = probe_attributes(rows[:10_000], first, rows[10_000:], last)
    # Far above the seconds it takes: time is shared with other processes.
    assert time.thread_time() - start < 30
    assert min(scores.values()) > 0.9


def test_what_cannot_be_probed_is_an_error():
    train, labels, test, answers = halves(0)
    with pytest.raises(ValueError, match="finite"):
        linear_probe(train * np.nan, labels, test, answers)
    with pytest.raises(ValueError, match="from 0"):
        linear_probe(train, labels - 1, test, answers)
    with pytest.raises(ValueError, match="at least one row"):
        linear_probe(train, labels, test[:0], answers[:0])
    with pytest.raises(ValueError, match="holds out"):
        linear_probe(train[:5], labels[:5], test, answers)
    with pytest.raises(ValueError, match="num_neighbors"):
        neighbor_accuracy(train[:5], labels[:5], test, answers)
