from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.study.statistics import (
    confidence_interval,
    interpolated,
    paired_differences,
    seed_deviation,
    steps_to_reach,
)


falling = st.lists(
    st.floats(0.1, 50), min_size=2, max_size=6, unique_by=lambda one: round(one, 2)
).map(lambda some: sorted(some, reverse=True))
numbers = st.lists(st.floats(-10, 10), min_size=2, max_size=9)


def test_the_interval_of_a_mean_by_hand():
    # Deviation 1 over three: 4.303 / sqrt(3) to either side.
    bounds = (2 - 2.4842, 2 + 2.4842)
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx(bounds, abs=1e-3)
    assert confidence_interval([1.0]) is None


def test_differences_are_of_shared_seeds():
    group = {0: {"x": 3.0}, 1: {"x": 5.0}, 7: {"x": 100.0}}
    base = {1: {"x": 1.0}, 0: {"x": 2.0}, 8: {"x": -100.0}}
    assert paired_differences(group, base, "x") == [1.0, 4.0]
    assert paired_differences(group, base, "x", sign=-1) == [-1.0, -4.0]
    assert paired_differences(group, {2: {"x": 1.0}}, "x") == []
    assert paired_differences(group, base, "y") == []


def test_the_deviation_of_seeds_by_hand():
    # Within: (1 + 1) and (4 + 4) of squares, one degree of freedom each.
    group, base = {0: {"x": 1.0}, 1: {"x": 3.0}}, {0: {"x": 10.0}, 1: {"x": 14.0}}
    assert seed_deviation(group, base, "x") == pytest.approx(5**0.5)
    assert seed_deviation({0: {"x": 1.0}}, {0: {"x": 2.0}}, "x") is None


@given(numbers, st.floats(0, 1))
def test_between_two_points_is_the_line_through_them(values, share):
    x = [float(at) for at in range(len(values))]
    at = float(share * x[-1])
    found = interpolated(x[::-1], values[::-1], at)
    assert found == pytest.approx(np.interp(at, x, values))
    assert interpolated(x, values, -0.1) is None
    assert interpolated(x, values, x[-1] + 0.1) is None


def test_steps_to_a_distance_by_hand():
    # From 100 to 400 steps a distance halves twice: 10 is reached at 200.
    assert steps_to_reach([100, 400], [20.0, 5.0], 10.0) == pytest.approx(200)
    assert steps_to_reach([100, 400, 800], [20.0, 5.0, 5.0], 5.0) == pytest.approx(400)
    assert steps_to_reach([100, 400], [20.0, 5.0], 30.0) == 100  # before the first
    assert steps_to_reach([100, 400], [20.0, 5.0], 4.9) is None
    # It first falls below 10, and what it does later does not matter.
    rising = [20.0, 5.0, 40.0, 1.0]
    assert steps_to_reach([100, 400, 800, 900], rising, 10.0) == pytest.approx(200)


@given(falling, st.floats(0, 1), st.floats(0.5, 4))
def test_a_curve_is_at_its_target_after_the_steps_to_it(values, share, slow):
    steps = [100.0 * 2**at for at in range(len(values))]
    target = max(values[0] ** (1 - share) * values[-1] ** share, values[-1])
    found = steps_to_reach(steps, values, target)
    assert found is not None
    there = np.exp(np.interp(np.log(found), np.log(steps), np.log(values)))
    assert there == pytest.approx(target, rel=1e-6)
    # In another unit they are as many of that unit.
    slower = steps_to_reach([slow * one for one in steps], values, target)
    assert slower == pytest.approx(slow * found)
