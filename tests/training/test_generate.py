import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.training.examples import GENERATE, LABELS, LATENTS
from vtp_eqx.config import DiTConfig, GenerateConfig
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.dit import DiT
from vtp_eqx.training.generate import (
    generate_objective,
    init_generator_training,
    LatentBatch,
)


@pytest.fixture(scope="module")
def generating():
    dit = DiTConfig(
        width=8, depth=1, num_heads=2, latent_size=2, latent_width=3, num_classes=5,
        label_drop_rate=0.5,
    )  # fmt: skip
    config = GenerateConfig(dit=dit, batch_size=64)
    latents = LatentBatch(jr.normal(jr.key(1), (64, 2, 2, 3)), jnp.arange(64) % 5)
    objective = generate_objective(config)
    return config, objective, latents, jax.jit(objective.make_views)(latents, jr.key(0))


def test_a_point_lies_between_noise_and_latent(generating):
    _, _, latents, views = generating
    # Going on along the velocity for the rest of the time ends at the latent.
    rest = (1 - views.t)[:, None, None, None] * views.velocity
    np.testing.assert_allclose(views.point + rest, latents.latents, atol=1e-5)
    assert 0 < views.t.min() < views.t.max() < 1


def test_some_labels_become_the_null_class(generating):
    config, _, latents, views = generating
    dropped = np.asarray(views.condition) == config.dit.num_classes
    np.testing.assert_array_equal(
        views.condition[~dropped], latents.condition[~dropped]
    )
    assert 16 < dropped.sum() < 48  # half of 64


def test_the_first_flow_loss_by_hand(generating):
    # A new transformer says zero: the square of the velocity, and 1 - cos = 1.
    config, objective, _, views = generating
    model = eqx.filter_jit(DiT)(config.dit, key=jr.key(2))
    step = jnp.zeros((), jnp.int32)
    rows = objective.add_teacher_targets(None, views, step)
    terms, monitors = objective.loss(
        model, eqx.filter_jit(objective.forward)(model, None, rows, step, jr.key(0))
    )
    square = np.mean(np.asarray(views.velocity) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(monitors["square"], square, rtol=1e-5)
    np.testing.assert_allclose(terms["flow"], square + 1, rtol=1e-5)


def distance(one, other):
    """The summed size of the differences of all weights."""
    differences = jax.tree.map(
        lambda a, b: jnp.abs(a - b).sum(),
        *(eqx.filter(m, eqx.is_array) for m in (one, other)),
    )
    return float(sum(jax.tree.leaves(differences)))


@pytest.mark.slow
def test_a_warm_average_leaves_its_start_at_once():
    # Decays of the first steps are (1 + step) / (10 + step), not 0.999.
    moved = {}
    for warmup in (False, True):
        config = dataclasses.replace(GENERATE, ema_warmup=warmup)
        state, step = init_generator_training(config, data_mesh(1))
        start = jax.device_get(state.teacher)
        batch = shard_batch(LatentBatch(LATENTS[:8], LABELS[:8]), data_mesh(1))
        for _ in range(2):
            state, _ = step(state, batch)
        moved[warmup] = distance(state.teacher, start) / distance(state.student, start)
    assert moved[False] < 0.003
    assert moved[True] > 0.8
