import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.checks import require_finite, require_positive, unless_empty


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_concrete_values_must_be_finite(bad):
    require_finite(image=jnp.ones(3), text=jnp.ones(2))
    with pytest.raises(ValueError, match="`text` must be finite"):
        require_finite(image=jnp.ones(3), text=jnp.array([1.0, bad]))


def test_bfloat16_values_are_read_too():
    with pytest.raises(ValueError, match="`text` must be finite"):
        require_finite(text=jnp.array([1.0, jnp.nan], jnp.bfloat16))


def test_a_constant_is_checked_inside_of_jit():
    spoiled = jnp.array([1.0, jnp.nan])

    @jax.jit
    def loss(image):
        require_finite(image=image, text=spoiled)
        return image

    with pytest.raises(ValueError, match="`text` must be finite"):
        loss(jnp.array([jnp.nan]))


@pytest.mark.parametrize("value", [0.0, -1.0, jnp.nan, jnp.float32(0)])
def test_concrete_scalars_must_be_positive(value):
    require_positive(temperature=0.1)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        require_positive(temperature=value)


def test_what_is_traced_becomes_nan_where_nothing_is_kept():
    kept = jnp.array([False, True, False])
    values = jax.jit(lambda kept: unless_empty(jnp.ones(2), kept))
    np.testing.assert_array_equal(values(kept), 1)
    assert np.isnan(values(kept & False)).all()
    np.testing.assert_array_equal(unless_empty(jnp.ones(2), kept), 1)
    with pytest.raises(ValueError, match="got none in 3 rows"):
        unless_empty(jnp.ones(2), kept & False)
