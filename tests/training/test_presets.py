"""Presets at scale, as trainings so small that a CPU takes their first 50 steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tiny_twins import init_twin, tiny_twin, twin_batch
from vtp_eqx.config import presets
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.arrays import leaf_path
from vtp_eqx.training.optimizer import network_of


NUM_STEPS = 50


def two_blocks(twin):
    """A twin with two blocks in each tower, whose outputs are computed again."""
    deeper = lambda tower: dataclasses.replace(tower, depth=2, remat="full")
    shape = twin.tokenizer
    tokenizer = dataclasses.replace(
        shape, encoder=deeper(shape.encoder), decoder=deeper(shape.decoder)
    )
    return dataclasses.replace(twin, tokenizer=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [
        # It has most to lose: the highest rate of dropping, and remat.
        pytest.param(two_blocks(tiny_twin(presets.PRETRAIN_L_ABLATION)), id="L"),
        pytest.param(tiny_twin(presets.PRETRAIN_B), id="B"),
        pytest.param(tiny_twin(presets.VA_VAE_B), id="VA-VAE"),
        pytest.param(tiny_twin(presets.GENERATE_XL), id="DiT"),
    ],
)
def test_the_first_steps_in_bfloat16_are_finite_and_near_those_of_float32(twin):
    config = dataclasses.replace(twin, num_steps=NUM_STEPS)
    assert config.precision == "bfloat16"
    mesh, moments = data_mesh(1), []
    for precision in ("float32", "bfloat16"):
        chosen = dataclasses.replace(config, precision=precision)
        state, step = init_twin(chosen, mesh)
        for count in range(NUM_STEPS):
            batch = shard_batch(twin_batch(config, count), mesh)
            state, metrics = step(state, batch)
            for term, value in metrics.items():
                assert np.isfinite(value), (term, count)
            if count == 0:
                moments.append(first_moments(state))
            if precision == "float32":
                break
    assert int(state.num_skipped) == 0
    exact, rounded = moments
    for network, moment in exact.items():
        error = jnp.linalg.norm(rounded[network] - moment) / jnp.linalg.norm(moment)
        # 8 bits, and a few blocks deep.
        assert error < 0.05, network


def first_moments(state) -> dict[str, jax.Array]:
    """The gradient of each network after one step, as one vector."""
    (moments,) = (part.mu for part in state.opt_state if hasattr(part, "mu"))
    found = {}
    for path, leaf in jax.tree.leaves_with_path(moments):
        network = network_of(leaf_path(path))
        found.setdefault(network, []).append(jnp.ravel(leaf))
    vectors = {name: jnp.concatenate(parts) for name, parts in found.items()}
    return {name: vector for name, vector in vectors.items() if jnp.any(vector != 0)}
