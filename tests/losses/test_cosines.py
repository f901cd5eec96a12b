import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.losses.cosines import pairwise_cosine, unit_norm


def test_by_hand():
    np.testing.assert_allclose(unit_norm(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_unit_vectors_have_length_one_and_short_ones_stay_short(getkey):
    rows = unit_norm(jr.normal(getkey(), (3, 4, 5)))
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        unit_norm(jnp.full((1, 4), 1e-9), eps=1e-8), 0.1, rtol=1e-5
    )


def test_the_direction_of_nothing_has_a_finite_gradient():
    gradient = jax.grad(lambda x: unit_norm(x, eps=1e-8).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_cosines_batch_over_leading_axes(getkey):
    queries, keys = jr.normal(getkey(), (2, 3, 5)), jr.normal(getkey(), (2, 4, 5))
    expected = np.einsum("bqw,bkw->bqk", queries, keys)
    np.testing.assert_allclose(
        pairwise_cosine(queries, keys), expected, rtol=1e-5, atol=1e-6
    )


def test_products_are_asked_for_in_full_precision(getkey):
    # The CPU always computes so; the request is what other backends read.
    rows = jr.normal(getkey(), (3, 5))
    both_ways = jax.make_jaxpr(jax.grad(lambda x: pairwise_cosine(x, rows).sum()))(rows)
    products = [e for e in both_ways.eqns if e.primitive.name == "dot_general"]
    assert products
    for product in products:
        assert "HIGHEST" in str(product.params["precision"])
