import math

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.weighting import adaptive_weight, FixedWeights, LearnedWeights


WEIGHTS = {"contrast": 1.0, "reconstruction": 0.1}
BOTH = [FixedWeights, LearnedWeights]
sizes = st.floats(0.01, 100.0)


def terms(contrast=2.0, reconstruction=30.0):
    return {
        "contrast": jnp.float32(contrast),
        "reconstruction": jnp.float32(reconstruction),
    }


def test_fixed_weights_by_hand():
    np.testing.assert_allclose(FixedWeights(WEIGHTS)(terms()), 2 + 3, rtol=1e-6)


def test_learned_weights_by_hand():
    # They start as given, each beside the log of its variance: log 1 and log 10.
    total = LearnedWeights(WEIGHTS)(terms())
    np.testing.assert_allclose(total, 2 + 3 + math.log(10), rtol=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_weights_start_as_given(kind):
    current = kind(WEIGHTS).current()
    assert current.keys() == WEIGHTS.keys()
    for name, weight in WEIGHTS.items():
        np.testing.assert_allclose(current[name], weight, rtol=1e-6)


def test_fixed_weights_get_no_gradient():
    gradient = eqx.filter_grad(lambda weights: weights(terms()))(FixedWeights(WEIGHTS))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", BOTH)
def test_terms_get_their_weights_as_gradient(kind):
    weights = kind(WEIGHTS)
    gradient = jax.grad(weights)(terms())
    for name, weight in WEIGHTS.items():
        np.testing.assert_allclose(gradient[name], weight, rtol=1e-6)


slopes = eqx.filter_jit(eqx.filter_grad(lambda weights, terms: weights(terms)))


@given(contrast=sizes, reconstruction=sizes)
def test_learned_weights_rest_where_every_weighted_term_is_one(
    contrast, reconstruction
):
    losses = terms(contrast, reconstruction)
    resting = LearnedWeights({name: 1 / float(loss) for name, loss in losses.items()})
    for slope in slopes(resting, losses).log_variance.values():
        np.testing.assert_allclose(slope, 0, atol=1e-5)
    # Elsewhere, descent moves the weight of the term that is too large down.
    pushed = LearnedWeights({name: 2 / float(loss) for name, loss in losses.items()})
    for slope in slopes(pushed, losses).log_variance.values():
        np.testing.assert_allclose(slope, -1, rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_a_term_without_a_weight_is_an_error(kind):
    weights = kind(WEIGHTS)
    with pytest.raises(ValueError, match=r"exactly one weight; .*\['distillation'\]"):
        weights({**terms(), "distillation": jnp.float32(1.0)})
    with pytest.raises(ValueError, match=r"exactly one weight; .*\['reconstruction'\]"):
        weights({"contrast": jnp.float32(1.0)})


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_mean_nothing_are_refused(kind, weight):
    with pytest.raises(ValueError, match="weight of `contrast` must be finite and"):
        kind({"contrast": weight})


def test_only_fixed_weights_may_be_zero():
    total = FixedWeights({"contrast": 0.0, "reconstruction": 1.0})(terms())
    np.testing.assert_allclose(total, 30, rtol=1e-6)
    with pytest.raises(ValueError, match="must be finite and above 0; got 0"):
        LearnedWeights({"contrast": 0.0})
    with pytest.raises(ValueError, match="one weighted term or more; got none"):
        FixedWeights({})


@pytest.mark.parametrize("kind", BOTH)
def test_leaves_are_strongly_typed(kind):
    for leaf in jax.tree.leaves(kind(WEIGHTS)):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type


def test_the_adaptive_weight_makes_both_gradients_as_long():
    number = lambda value: jnp.asarray(value, jnp.float32)
    weigh = lambda one, other: adaptive_weight(
        number(one), number(other), eps=1e-6, limit=1e4
    )
    assert weigh(3.0, 0.5) * 0.5 == pytest.approx(3.0, rel=1e-5)
    # Where nothing comes from the discriminator, no weight is without bound.
    assert weigh(3.0, 0.0) == 1e4
