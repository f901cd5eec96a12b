from hypothesis import given, strategies as st
import numpy as np
import pytest
import scipy.stats

from vtp_eqx.evaluation.mind import mind, Projections


seeds = st.integers(0, 2**31 - 1)


def distance(first, second, num_directions=100):
    of = lambda rows: Projections.of(rows, num_directions=num_directions)
    return mind(of(first), of(second))


@given(seed=seeds)
def test_a_set_is_at_distance_zero_from_itself_in_any_order_and_repeated(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 4))
    assert distance(rows, rows) == 0
    assert distance(rows, rng.permutation(rows)) < 1e-20
    # Shares count: each of the rows three times is the same law.
    assert distance(rows, np.tile(rows, (3, 1))) < 1e-20


@given(seed=seeds)
def test_it_is_symmetric_and_no_order_of_rows_changes_it(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(30, 4)), 2 * rng.normal(size=(20, 4)) + 1
    there = distance(first, second)
    assert there > 0
    assert distance(second, first) == pytest.approx(there, rel=1e-12)
    mixed = distance(rng.permutation(first), rng.permutation(second))
    assert mixed == pytest.approx(there, rel=1e-12)


def test_a_shift_has_three_times_its_square():
    # The mean of (u d)^2 over directions is |d|^2 / width.
    rows = np.random.default_rng(0).normal(size=(50, 8))
    shift = np.linspace(-1, 1, 8)
    got = distance(rows, rows + shift, num_directions=4000)
    assert got == pytest.approx(3 * shift @ shift, rel=0.05)


def test_a_wider_gaussian_has_three_times_the_width_and_the_square():
    # On every direction the quantiles of N(0, 4) are twice those of N(0, 1).
    quantiles = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    one = Projections(quantiles[None], 5)
    assert mind(one, Projections(2 * quantiles[None], 5)) == pytest.approx(15, rel=0.01)


def test_one_dimension_by_hand_where_counts_differ():
    # 0, 3 against 0, 1, 2: pieces of 1/3 (0, 0), 1/6 (0, 1), 1/6 (3, 1), 1/3 (3, 2).
    first, second = np.array([[3.0], [0.0]]), np.array([[1.0], [0.0], [2.0]])
    expected = 3 * (0 / 3 + 1 / 6 + 4 / 6 + 1 / 3)
    assert distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_halves_of_one_law_are_near_and_a_law_of_equal_moments_is_not():
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(2, 2000, 2))
    floor = distance(*halves)
    # Mean 0 and covariance 1 too: a Frechet distance sees no difference.
    corners = rng.choice([-1.0, 1.0], size=(2000, 2))
    assert floor < 0.05
    assert distance(halves[0], corners) > 10 * floor


def test_what_has_no_distance_is_an_error():
    with pytest.raises(ValueError, match="finite"):
        Projections.of(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="`features` "):
        Projections.of(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="one feature network"):
        distance(np.zeros((3, 2)), np.zeros((3, 3)))
