import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm, unit_norm


seeds = st.integers(0, 2**31 - 1)


def rows(seed, shape=(3, 8)):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(size=shape) * 10 + 1, jnp.float32)


def test_rms_by_hand():
    # The mean square of (3, 4) is 12.5; with eps 3.5 its root is 4.
    found = RMSNorm(2, eps=3.5)(jnp.asarray([3.0, 4.0]))
    np.testing.assert_allclose(found, [0.75, 1.0], rtol=1e-6)


def test_layer_norm_by_hand():
    # Mean 3 and variance 1; with eps 3 the deviation is 2.
    found = LayerNorm(2, eps=3.0)(jnp.asarray([2.0, 4.0]))
    np.testing.assert_allclose(found, [-0.5, 0.5], rtol=1e-6)


@given(seed=seeds)
def test_a_root_mean_square_becomes_1(seed):
    found = np.asarray(RMSNorm(8)(rows(seed)))
    np.testing.assert_allclose((found**2).mean(axis=-1), 1, rtol=1e-3)


@given(seed=seeds)
def test_a_layer_norm_removes_shift_and_scale(seed):
    norm, x = LayerNorm(8), rows(seed)
    found = np.asarray(norm(x))
    np.testing.assert_allclose(found.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(norm(5 * x - 7), found, atol=1e-4)


@given(seed=seeds)
def test_unit_norm_keeps_direction(seed):
    x = rows(seed)
    found = np.asarray(unit_norm(x))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    assert ((found * np.asarray(x)).sum(axis=-1) > 0).all()


def test_zeros_have_no_direction_and_finite_gradients():
    zero = jnp.zeros(3)
    assert not unit_norm(zero).any()
    assert jnp.isfinite(jax.jacobian(unit_norm)(zero)).all()


@pytest.mark.parametrize("norm", [RMSNorm(8), LayerNorm(8), unit_norm])
def test_what_comes_in_narrow_is_computed_wide(norm):
    # 400 squared 8 times is beyond float16.
    x = jnp.full(8, 400.0, jnp.float16).at[0].set(-400)
    found = norm(x)
    assert found.dtype == jnp.float16
    assert jnp.isfinite(found).all()
    assert found.any()


def test_norms_have_published_eps_unless_told():
    assert (make_norm("rmsnorm", 4).eps, make_norm("layernorm", 4).eps) == (1e-5, 1e-6)
    assert make_norm("layernorm", 4, 0.1).eps == 0.1


def test_a_norm_scales_and_shifts():
    x = jnp.asarray([2.0, 4.0])
    plain = LayerNorm(2, affine=False)
    assert plain.weight is None
    learned = eqx.tree_at(
        lambda norm: (norm.weight, norm.bias),
        LayerNorm(2),
        (jnp.asarray([3.0, 3.0]), jnp.asarray([1.0, 1.0])),
    )
    np.testing.assert_allclose(learned(x), 3 * plain(x) + 1, rtol=1e-6)
