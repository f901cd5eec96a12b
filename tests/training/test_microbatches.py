"""The number of microbatches, of devices and the way of sharding change no update."""

import equinox as eqx
import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def alone(pairs):
    return pairs(1)


@pytest.mark.parametrize(
    ("num_devices", "accumulate", "sharding"),
    [
        (1, 2, "none"),
        (1, 16, "none"),
        (2, 1, "zero"),
        (2, 4, "fsdp"),
        (4, 2, "none"),
        (8, 1, "none"),
        (8, 2, "zero"),
        (8, 1, "fsdp"),
    ],
)
def test_an_update_is_that_of_the_full_batch(
    num_devices, accumulate, sharding, alone, pairs
):
    before, expected, expected_logged = alone
    start, found, logged = pairs(num_devices, accumulate=accumulate, sharding=sharding)
    for ours, theirs in zip(logged, expected_logged, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for ours, theirs, old in zip(*map(learned, (found, expected, before)), strict=True):
        assert not np.array_equal(theirs, old)  # learned weights and scale included
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # A step hands its state on as it got it: split, and with no second compilation.
    for ours, old in zip(learned(found), learned(start), strict=True):
        assert ours.sharding == old.sharding


def learned(state):
    parts = (state.student, state.teacher, state.weights, state.opt_state)
    return jax.tree.leaves(eqx.filter(parts, eqx.is_inexact_array))


@pytest.mark.parametrize("accumulate", [0, 3])
def test_microbatches_that_are_not_equal_are_refused(accumulate, pairs):
    with pytest.raises(ValueError, match=f"got 16 rows for {accumulate} microbatches"):
        pairs(1, accumulate=accumulate)
