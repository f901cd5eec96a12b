import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.nn.linear import Linear, orthogonal


def test_a_linear_map_by_hand(getkey):
    layer = Linear(2, 1, key=getkey())
    layer = jax.tree.map(jnp.ones_like, layer)
    np.testing.assert_array_equal(layer(jnp.asarray([2.0, 3.0])), [6.0])


@pytest.mark.parametrize("axes", [(), (5,), (2, 3)])
def test_any_leading_axes_are_mapped_alike(axes, getkey):
    layer, x = Linear(4, 6, key=getkey()), jr.normal(getkey(), (*axes, 4))
    found = layer(x)
    assert found.shape == (*axes, 6)
    rows = jax.vmap(layer)(x.reshape(-1, 4)).reshape(found.shape)
    np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-7)


def test_a_new_layer_has_narrow_weights_and_no_bias(getkey):
    layer = Linear(100, 100, key=getkey())
    np.testing.assert_allclose(layer.weight.std(), 0.02, rtol=0.05)
    assert not layer.bias.any()
    assert layer.weight.dtype == layer.bias.dtype == jnp.float32
    assert Linear(2, 2, use_bias=False, key=getkey()).bias is None


def test_a_wrong_width_is_an_error(getkey):
    with pytest.raises(Exception, match="in"):
        Linear(4, 6, key=getkey())(jnp.zeros((2, 5)))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])  # widths in and out
def test_an_orthogonal_layer_keeps_lengths_where_it_can(shape, getkey):
    layer = Linear(*shape, key=getkey())
    found = orthogonal(layer, key=getkey())
    weight = found.weight if shape[0] > shape[1] else found.weight.T
    np.testing.assert_allclose(weight @ weight.T, np.eye(4), atol=1e-6)
    assert found.weight.dtype == jnp.float32
    np.testing.assert_array_equal(found.bias, layer.bias)
