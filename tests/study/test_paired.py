from hypothesis import given, strategies as st
import pytest

from vtp_eqx.study.paired import interval, leads


numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=9)


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


def test_where_no_seed_is_shared_means_are_compared():
    group = {0: {"x": 3.0}, 1: {"x": 5.0}}
    assert leads(group, {2: {"x": 1.0}}, "x") == [3.0]
