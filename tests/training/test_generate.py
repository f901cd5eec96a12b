import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from tests.training.examples import GENERATE, LABELS, LATENTS
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.training.generate import init_generator_training, LatentBatch


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
