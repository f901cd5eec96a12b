"""Intervals: hand-worked ones, how often they hold the truth, and paired resampling."""

import numpy as np
import pytest

from vtp_eqx.evaluation.intervals import (
    Estimate,
    flat_numbers,
    jackknife,
    ratio,
    share,
)


def test_a_ratio_is_of_sums_and_leaves_nan_out():
    found = ratio(np.array([1.0, 2, np.nan]), np.array([4.0, 2, 5]))
    assert (found.value, found.count) == (0.5, 2)
    # Only the four draws (1, 1), (1, 2), (2, 1), (2, 2) are possible.
    assert (found.low, found.high) == (0.25, 1.0)


def test_intervals_hold_the_mean_about_as_often_as_they_say():
    draw = np.random.default_rng(0)
    found = [ratio(draw.exponential(size=100)) for _ in range(200)]
    holds = np.mean([of.low <= 1 <= of.high for of in found])
    assert 0.87 <= holds <= 0.98


def test_a_jackknife_of_means_is_the_standard_error():
    values = np.arange(10.0)
    without = [float(np.delete(values, row).mean()) for row in range(10)]
    found = jackknife(4.5, without, 10)
    # 2.262 is Student's t for 9 degrees of freedom.
    reach = 2.262 * values.std(ddof=1) / np.sqrt(10)
    assert found.high - found.value == pytest.approx(reach, rel=1e-3)
    assert found.value - found.low == pytest.approx(reach, rel=1e-3)


def test_wilsons_interval_of_no_success():
    found = share(0.0, 10)  # z^2 / (n + z^2)
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(3.8415 / 13.8415, rel=1e-4)


def test_numbers_of_a_card_have_names_of_their_own():
    panel = {"VIV": Estimate(1.0, 0.5, 2.0, 24)}
    assert flat_numbers(panel) == {
        "VIV": 1.0, "VIV low": 0.5, "VIV high": 2.0, "VIV N": 24.0
    }  # fmt: skip
