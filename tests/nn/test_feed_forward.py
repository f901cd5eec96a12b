import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.nn.feed_forward import gelu, MLP, quick_gelu, SwiGLU, swiglu_width


def unit(layer):
    """All weights 1, biases 0."""
    return jax.tree.map(
        lambda leaf: jnp.ones_like(leaf) if leaf.ndim == 2 else jnp.zeros_like(leaf),
        layer,
    )


@pytest.mark.parametrize(
    ("width", "ratio", "expected"),
    [(384, 4, 1024), (768, 4, 2048), (1024, 4, 2736), (48, 4, 128), (16, 4, 48)],
)
def test_widths_of_the_published_models(width, ratio, expected):
    assert swiglu_width(width, ratio) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("swiglu", 2736), ("swiglu32", 2752), ("swiglu64", 2752), ("swiglu128", 2816)],
)
def test_a_hidden_width_is_rounded_up_to_the_multiple_in_its_name(kind, expected):
    assert swiglu_width(1024, 4, kind) == expected  # from 2730


def test_swiglu_by_hand(getkey):
    layer = unit(SwiGLU(1, 2, key=getkey()))
    # Two hidden numbers, each silu(3) * 3.
    silu = 3 / (1 + np.exp(-3))
    np.testing.assert_allclose(layer(jnp.asarray([3.0])), [2 * silu * 3], rtol=1e-6)


def test_the_gate_is_what_is_activated(getkey):
    layer = unit(SwiGLU(1, 1, key=getkey()))
    closed = eqx.tree_at(lambda layer: layer.gate.bias, layer, jnp.asarray([-1e3]))
    np.testing.assert_allclose(closed(jnp.asarray([3.0])), [0.0], atol=1e-6)


@pytest.mark.parametrize("activation", [gelu, quick_gelu, jax.nn.relu])
def test_an_mlp_has_the_activation_it_was_given(activation, getkey):
    layer = unit(MLP(1, 3, activation=activation, key=getkey()))
    x = jnp.asarray([0.7])
    np.testing.assert_allclose(layer(x), 3 * activation(x), rtol=1e-6)


def test_two_approximations_of_one_curve():
    x = jnp.linspace(-4, 4, 81)
    np.testing.assert_allclose(gelu(jnp.asarray(1.0)), 0.8413447, rtol=1e-6)
    assert 0.01 < jnp.abs(gelu(x) - quick_gelu(x)).max() < 0.03
