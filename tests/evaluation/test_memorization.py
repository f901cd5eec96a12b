from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.evaluation.memorization import coarse_pixels, copy_distance, copy_ratio


@given(seed=st.integers(0, 2**31 - 1))
def test_unseen_rows_of_one_law_are_copies_as_often_as_held_out_ones(seed):
    train, held_out, samples = np.random.default_rng(seed).normal(size=(3, 2000, 3))
    distance = copy_distance(train, held_out, quantile=0.2)
    own = copy_ratio(train, held_out, distance, quantile=0.2)
    assert own == pytest.approx(1, abs=0.01)
    ratio = copy_ratio(train, samples, distance, quantile=0.2)
    assert ratio == pytest.approx(1, abs=0.25)
    # Distances to sets do not depend on orders.
    order = np.random.default_rng(seed).permutation(2000)
    assert copy_distance(train[order], held_out[order], quantile=0.2) == pytest.approx(
        distance, rel=1e-4
    )
    again = copy_ratio(train[order], samples[order], distance, quantile=0.2)
    assert again == pytest.approx(ratio, abs=0.01)


def test_copies_have_the_largest_ratio_and_strangers_none():
    train, held_out = np.random.default_rng(0).normal(size=(2, 1000, 6))
    distance = copy_distance(train, held_out)
    copies = train[:400] + 1e-3
    assert copy_ratio(train, copies, distance) == pytest.approx(20)
    assert copy_ratio(train, held_out + 20, distance) == 0
    half = np.concatenate([copies, held_out[:400] + 20])
    assert copy_ratio(train, half, distance) == pytest.approx(10)


def test_a_distance_by_hand():
    train, held_out = np.array([[0.0], [10.0]]), np.array([[1.0], [7.0], [14.0]])
    # Squared distances 1, 9, 16 to the nearest; their median is 9.
    assert copy_distance(train, held_out, quantile=0.5) == pytest.approx(9)
    samples = np.array([[2.0], [8.0], [13.5], [20.0]])  # 4, 4, 12.25, 100
    assert copy_ratio(train, samples, 9.0, quantile=0.5) == 1


def test_coarse_pixels_are_means_of_blocks():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = coarse_pixels(images).reshape(3, 8, 8, 3)
    expected = images[:, 4:8, 12:16].astype(float).mean(axis=(1, 2)) / 255 - 0.5
    np.testing.assert_allclose(rows[:, 1, 3], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"`images` \(side 20\)"):
        coarse_pixels(images[:, :20, :20])
