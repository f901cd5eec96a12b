"""LightningDiT: its published sizes, its start, and what reaches what."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DIT_1B, DIT_B, DIT_XL, DiTConfig
from vtp_eqx.models.dit import DiT, drop_conditions, sincos_table, time_waves


CONFIG = DiTConfig(
    width=32, depth=2, num_heads=2, latent_width=3, latent_size=4, num_classes=5
)
SHAPE = (4, 4, 3)


@pytest.fixture(scope="module")
def dit():
    """A model whose every weight is alive: a new one starts with zeros."""
    random = np.random.default_rng(0)
    model = eqx.filter_eval_shape(lambda key: DiT(CONFIG, key=key), jr.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * random.normal(size=leaf.shape), jnp.float32),
        model,
    )


@pytest.fixture(scope="module")
def velocity():
    return eqx.filter_jit(lambda model, *inputs: model(*inputs))


@pytest.mark.parametrize(
    ("config", "millions"), [(DIT_B, 130.41), (DIT_XL, 675.04), (DIT_1B, 1029.11)]
)
def test_parameters_are_as_many_as_published(config, millions):
    model = eqx.filter_eval_shape(lambda key: DiT(config, key=key), jr.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert round(count / 1e6, 2) == millions


def test_a_new_model_has_velocity_zero(velocity, getkey):
    model = eqx.filter_jit(lambda key: DiT(CONFIG, key=key))(getkey())
    out = velocity(model, jr.normal(getkey(), SHAPE), jnp.asarray(0.3), jnp.asarray(1))
    np.testing.assert_array_equal(out, jnp.zeros(SHAPE))


def test_every_weight_is_a_float32_of_the_strong_type():
    model = eqx.filter_eval_shape(lambda key: DiT(CONFIG, key=key), jr.key(0))
    for leaf in jax.tree.leaves(model):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type


def test_a_batch_is_its_examples(dit, velocity, getkey):
    latents = jr.normal(getkey(), (3, *SHAPE))
    t, labels = jnp.array([0.1, 0.5, 0.9]), jnp.array([0, 4, 5])
    together = eqx.filter_jit(dit.batch)(latents, t, labels)
    for row in range(3):
        alone = velocity(dit, latents[row], t[row], labels[row])
        np.testing.assert_allclose(together[row], alone, rtol=1e-4, atol=1e-5)


def test_a_sum_in_float32_is_nearer_to_float32_in_bfloat16(dit, velocity, getkey):
    inputs = jr.normal(getkey(), SHAPE), jnp.asarray(0.4), jnp.asarray(2)
    exact = velocity(dit, *inputs)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), dit)
    errors = {}
    for residual in ("as computed", "float32"):
        config = dataclasses.replace(CONFIG, residual=residual)
        other = eqx.filter_eval_shape(DiT, config, key=jr.key(0))
        structure = jax.tree.structure(other)
        model = jax.tree.unflatten(structure, jax.tree.leaves(rounded))
        found = velocity(model, *inputs)
        assert found.dtype == jnp.bfloat16
        errors[residual] = float(jnp.abs(found.astype(jnp.float32) - exact).mean())
    assert errors["float32"] < 0.9 * errors["as computed"]


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialization_changes_no_gradient(dit, remat, getkey):
    latents = jr.normal(getkey(), SHAPE)

    def gradient(model):
        loss = lambda model: jnp.sum(
            model(latents, jnp.asarray(0.4), jnp.asarray(2)) ** 2
        )
        return eqx.filter_jit(eqx.filter_grad(loss))(model)

    config = dataclasses.replace(CONFIG, remat=remat)
    other = eqx.filter_eval_shape(lambda key: DiT(config, key=key), jr.key(0))
    other = jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(dit))
    for a, b in zip(
        jax.tree.leaves(gradient(dit)), jax.tree.leaves(gradient(other)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_every_input_reaches_every_output(dit, getkey):
    latents = jr.normal(getkey(), SHAPE)
    point = jnp.asarray(0.4)
    corner = lambda latents, t: dit(latents, t, jnp.asarray(2))[0, 0].sum()
    by_latent, by_time = jax.jit(jax.grad(corner, argnums=(0, 1)))(latents, point)
    assert bool((by_latent != 0).all())
    assert bool(by_time != 0)


def test_positions_and_classes_are_told_apart(dit, velocity):
    flat = jnp.ones(SHAPE)
    outs = [velocity(dit, flat, jnp.asarray(0.5), jnp.asarray(y)) for y in (0, 1, 5)]
    assert len({float(out.sum()) for out in outs}) == 3
    tokens = outs[0].reshape(-1, 3)
    assert len({float(token.sum()) for token in tokens}) == len(tokens)


@pytest.mark.parametrize("label", [-1, 6])
def test_a_label_that_does_not_exist_gives_no_number(dit, velocity, label):
    out = velocity(dit, jnp.ones(SHAPE), jnp.asarray(0.5), jnp.asarray(label))
    assert bool(jnp.isnan(out).all())


def test_latents_of_another_size_are_refused(dit):
    with pytest.raises(ValueError, match=r"shape \(4, 4, 3\); got \(8, 8, 3\)"):
        dit(jnp.ones((8, 8, 3)), jnp.asarray(0.5), jnp.asarray(0))


def test_heads_without_two_axes_of_pairs_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        dataclasses.replace(CONFIG, width=36, num_heads=6)


def test_labels_are_dropped_at_their_rate(getkey):
    labels = jnp.arange(4000, dtype=jnp.int32) % 5
    dropped = drop_conditions(labels, CONFIG, key=getkey())
    assert dropped.dtype == labels.dtype
    is_null = dropped == CONFIG.num_classes
    assert 0.08 < float(is_null.mean()) < 0.12
    np.testing.assert_array_equal(dropped[~is_null], labels[~is_null])


def test_waves_of_time_zero_by_hand():
    np.testing.assert_array_equal(
        time_waves(jnp.asarray(0.0)), [1.0] * 128 + [0.0] * 128
    )


def test_positions_of_the_second_token_by_hand():
    # Row 0, column 1, width 8: frequencies 1 and 1/100; column first, then row.
    second = sincos_table(2, 8)[1]
    column = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)]
    np.testing.assert_allclose(second, [*column, 0, 0, 1, 1], rtol=1e-6)
