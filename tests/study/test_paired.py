from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.study.paired import interval, leads, rank_correlation


numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=9)
ranks = st.lists(st.integers(-5, 5), min_size=3, max_size=8)


def test_the_interval_of_a_mean_by_hand():
    # Deviation 1 over three: 4.303 / sqrt(3) to either side.
    bounds = (2 - 2.4842, 2 + 2.4842)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(bounds, abs=1e-3)
    assert interval([1.0]) is None


@given(numbers)
def test_an_interval_turns_with_the_sign(some):
    bounds = interval(some)
    assert bounds is not None
    assert bounds[0] <= bounds[1]
    turned = interval([-one for one in some])
    assert turned == pytest.approx((-bounds[1], -bounds[0]), abs=1e-9)


def test_leads_are_of_shared_seeds():
    group = {0: {"x": 3.0}, 1: {"x": 5.0}, 7: {"x": 100.0}}
    base = {1: {"x": 1.0}, 0: {"x": 2.0}, 8: {"x": -100.0}}
    assert leads(group, base, "x") == [1.0, 4.0]
    assert leads(group, base, "x", sign=-1) == [-1.0, -4.0]
    assert leads(group, {2: {"x": 1.0}}, "x") == []


@given(first=ranks, seed=st.integers(0, 100))
def test_ranks_know_order_alone(first, seed):
    if len(set(first)) < 2:
        return
    second = np.random.default_rng(seed).permutation(len(first)).tolist()
    found, low, high = rank_correlation(first, second)
    assert -1.001 < low <= high < 1.001
    again = lambda one, other: rank_correlation(one, other)[0]
    assert again([one**3 for one in first], second) == pytest.approx(found)
    assert again([-one for one in first], second) == pytest.approx(-found)
    assert again(first, first) == pytest.approx(1)


def test_rank_correlation_by_hand():
    # Ranks 0, 1.5, 1.5, 3 beside 0, 1, 2, 3.
    found, *_ = rank_correlation([1, 4, 4, 9], [1, 2, 3, 4])
    assert found == pytest.approx(0.9**0.5)


def test_what_does_not_vary_goes_with_nothing():
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3])).all()
