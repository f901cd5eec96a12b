from hypothesis import given, strategies as st
import numpy as np
import pytest
import scipy.linalg

from vtp_eqx.evaluation.frechet import (
    class_frechet_distance,
    frechet_distance,
    Moments,
    self_test,
)


seeds = st.integers(0, 2**31 - 1)


def sample(seed, count=200, width=6):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width))
    return rng.normal(size=(count, width)) @ mix + rng.normal(size=width)


def exact(mean, covariance):
    """Moments that have exactly this mean and covariance."""
    return Moments(2, np.asarray(mean), np.asarray(covariance))


def test_two_gaussians_by_hand():
    # |(3, 4)|^2 = 25; axes (1, 2) against (4, 2): (1 - 4)^2 + (2 - 2)^2 = 9.
    first = exact([0.0, 0.0], np.diag([1.0, 4.0]))
    second = exact([3.0, 4.0], np.diag([16.0, 4.0]))
    assert frechet_distance(first, second) == pytest.approx(34.0, rel=1e-12)


def test_covariances_that_do_not_commute_by_hand():
    # det(C1 C2) = 4 and tr(C1 C2) = 5, so tr sqrt = sqrt(5 + 2 sqrt 4) = 3.
    first = exact([0.0, 0.0], np.diag([1.0, 4.0]))
    second = exact([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    assert frechet_distance(first, second) == pytest.approx(5 + 2 - 6, rel=1e-12)
    # C2 = [[2, 1], [1, 1]]: det(C1 C2) = 4, tr(C1 C2) = 6, tr sqrt = sqrt(10).
    third = exact([0.0, 0.0], [[2.0, 1.0], [1.0, 1.0]])
    expected = 5 + 3 - 2 * np.sqrt(10)
    assert frechet_distance(first, third) == pytest.approx(expected, rel=1e-12)


@given(seed=seeds)
def test_the_distance_to_itself_is_zero(seed):
    moments = Moments.of(sample(seed))
    assert frechet_distance(moments, moments) < 1e-9 * np.trace(moments.covariance)


@given(seed=seeds)
def test_the_distance_is_symmetric(seed):
    first, second = Moments.of(sample(seed)), Moments.of(sample(seed + 1))
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, rel=1e-10)
    assert there > 0


@given(seed=seeds)
def test_rotating_both_sets_leaves_the_distance(seed):
    first, second = sample(seed), sample(seed + 1)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    before = frechet_distance(Moments.of(first), Moments.of(second))
    after = frechet_distance(Moments.of(first @ turn), Moments.of(second @ turn))
    assert after == pytest.approx(before, rel=1e-8)


@given(seed=seeds)
def test_it_agrees_with_the_root_of_the_product(seed):
    first, second = Moments.of(sample(seed)), Moments.of(sample(seed + 1))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    expected = np.sum((first.mean - second.mean) ** 2) + np.trace(
        first.covariance + second.covariance - 2 * root.real
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_fewer_samples_than_features_are_no_trouble(count):
    first = Moments.of(sample(0, count=count, width=30))
    second = Moments.of(sample(1, count=count, width=30))
    assert frechet_distance(first, first) < 1e-9 * np.trace(first.covariance)
    assert np.isfinite(frechet_distance(first, second))
    # A constant set is a point: all of the other's spread is distance.
    point = Moments.of(np.zeros((count, 30)))
    expected = first.mean @ first.mean + np.trace(first.covariance)
    assert frechet_distance(first, point) == pytest.approx(expected, rel=1e-10)


@given(seed=seeds, cut=st.integers(0, 200))
def test_moments_of_parts_merge_into_those_of_the_whole(seed, cut):
    rows = sample(seed) + 1e4
    whole, merged = Moments.of(rows), Moments.of(rows[:cut]) + Moments.of(rows[cut:])
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, atol=1e-8)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.T), atol=1e-8)


@given(seed=seeds)
def test_whole_weights_are_repeated_rows(seed):
    rows, weights = sample(seed, count=40), np.r_[np.full(30, 1), np.full(10, 3)]
    moments = Moments.of(rows, weights * 40 / weights.sum())
    repeated = Moments.of(np.repeat(rows, weights, axis=0))
    np.testing.assert_allclose(moments.mean, repeated.mean, rtol=1e-10)
    np.testing.assert_allclose(
        moments.scatter / 40, repeated.scatter / weights.sum(), rtol=1e-10, atol=1e-12
    )


def test_the_distance_of_classes_by_hand():
    # Two classes of two points; class 1 is moved by 3, and class 0 is twice as wide.
    first = np.array([[-1.0], [1.0], [9.0], [11.0]])
    second = np.array([[14.0], [12.0], [-2.0], [2.0]])
    labels, others = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])
    got = class_frechet_distance(first, labels, second, others)
    # Unbiased deviations are sqrt(2) of 1 and of 2.
    assert got == pytest.approx(((np.sqrt(8) - np.sqrt(2)) ** 2 + 3**2) / 2)


@given(seed=seeds)
def test_the_distance_of_classes_sees_what_pooled_moments_hide(seed):
    rng = np.random.default_rng(seed)
    rows, labels = sample(seed, count=1200), np.arange(1200) % 3
    first, second, own, others = rows[:600], rows[600:], labels[:600], labels[600:]
    floor = class_frechet_distance(first, own, second, others)
    order = rng.permutation(600)
    mixed = class_frechet_distance(first, own, second[order], others[order])
    assert mixed == pytest.approx(floor, rel=1e-9)
    assert floor < 0.05 * np.trace(Moments.of(first).covariance)
    # Classes that exchange a feature's sign: the same images under other labels.
    apart = first + 5 * (own == 0)[:, None]
    theirs = second + 5 * (others == 1)[:, None]
    pooled = frechet_distance(Moments.of(apart), Moments.of(theirs))
    assert class_frechet_distance(apart, own, theirs, others) > 10 * pooled


def test_components_are_those_of_most_variance():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 400, 4)) * [10, 1, 1, 0.1]
    labels = np.zeros(400, int)
    moved = second + 0.5 * np.eye(4)[3]
    one, other = (
        class_frechet_distance(first, labels, rows, labels, num_components=1)
        for rows in (second, moved)
    )
    assert other == pytest.approx(one, rel=0.2)
    every = class_frechet_distance(first, labels, moved, labels)
    assert every == pytest.approx(
        frechet_distance(Moments.of(first), Moments.of(moved)), rel=1e-9
    )


def test_missing_classes_are_an_error():
    rows = sample(0, count=8)
    with pytest.raises(ValueError, match=r"`second_labels` \(1 classes\)"):
        class_frechet_distance(rows, np.arange(8) % 2, rows, np.zeros(8, int))


def test_single_precision_features_are_summed_in_double():
    rows = sample(0).astype(np.float32)
    assert Moments.of(rows).mean.dtype == np.float64


def test_what_has_no_distance_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        Moments.of(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(Moments.of(np.zeros((1, 2))), Moments.of(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="one width"):
        frechet_distance(Moments.of(np.zeros((3, 3))), Moments.of(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="one width"):
        Moments.of(np.zeros((3, 3))) + Moments.of(np.zeros((3, 2)))


def test_moments_come_back_from_their_statistics():
    moments = Moments.of(sample(0))
    again = Moments.from_statistics(moments.mean, moments.covariance, moments.count)
    np.testing.assert_allclose(again.scatter, moments.scatter, rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "seen_in"), [(0.999, "a set to itself"), (1.001, "two Gaussians")]
)
def test_the_self_test_passes_here_and_sees_a_wrong_root(wrong, seen_in, monkeypatch):
    self_test()
    right = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: wrong * right(*a, **k))
    with pytest.raises(ArithmeticError, match=seen_in):
        self_test()
