import math

from hypothesis import given, strategies as st
import numpy as np
from scipy import stats

from vtp_eqx.data.counter_rng import CounterRNG


KEPT = (0.7370862949435419, 0.5035716565148746, 0.8983335334321504)


def test_numbers_never_change():
    # Worked once and kept: every rendered data set depends on them.
    draws = CounterRNG(0, np.array([0, 1, 2**40]))
    np.testing.assert_allclose(draws.uniform("a"), KEPT, rtol=0)


@given(seed=st.integers(0, 2**31 - 1), order=st.permutations(range(6)))
def test_a_number_does_not_depend_on_its_neighbors(seed, order):
    counters = np.arange(6)
    together = CounterRNG(seed, counters).uniform("x")
    shuffled = CounterRNG(seed, counters[order]).uniform("x")
    alone = CounterRNG(seed, counters[3:4]).uniform("x")
    np.testing.assert_array_equal(shuffled, together[order])
    assert alone[0] == together[3]


def test_uniform_numbers_are_uniform_and_names_are_independent():
    draws = CounterRNG(1, np.arange(4000))
    one, two = draws.uniform("one"), draws.uniform("two")
    assert stats.kstest(one, "uniform").pvalue > 0.01
    assert stats.kstest(two, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 3 / math.sqrt(4000)
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 3 / math.sqrt(4000)


def test_integers_and_permutations_have_their_ranges():
    draws = CounterRNG(2, np.arange(600))
    assert np.bincount(draws.integer("i", 5)).min() > 80
    orders = draws.permutation("p", 4)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(range(4), (600, 1)))
    assert len(np.unique(orders, axis=0)) == math.factorial(4)


def test_noise_has_mean_zero_and_deviation_one():
    for noise in CounterRNG(3, np.arange(20)).noise("n", 1000):
        assert abs(noise.mean()) < 0.03
        assert abs(noise.std() - 1) < 0.02
