import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from vtp_eqx.config import DIT_B, DiTConfig, GenerateConfig, presets
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.dit import DiT
from vtp_eqx.runs.dry_run import generator_dry_run_lines, state_bytes, step_bytes
from vtp_eqx.training.flops import forward_flops


def test_flops_are_those_of_the_compiler():
    # One block, because a compiler counts what a loop repeats once.
    config = DiTConfig(width=192, depth=1, num_heads=2, latent_size=8, latent_width=8)
    dit = eqx.filter_eval_shape(lambda: DiT(config, key=jr.key(0)))
    arrays, static = eqx.partition(dit, lambda x: isinstance(x, jax.ShapeDtypeStruct))
    lowered = jax.jit(lambda arrays, *x: eqx.combine(arrays, static)(*x)).lower(
        arrays, jnp.zeros((8, 8, 8)), jnp.zeros(()), jnp.zeros((), jnp.int32)
    )
    assert forward_flops(config) == pytest.approx(
        lowered.cost_analysis()["flops"], rel=0.03
    )


def test_a_forecast_says_what_the_paper_says_of_the_largest():
    config = presets.GENERATE_1B_ON_L
    lines = generator_dry_run_lines(config, data_mesh(1), 1_281_167)
    text = "\n".join(lines)
    assert "parameters      1,029," in text
    assert "100,000 of 1024 images" in text
    assert "79.9 times each" in text
    assert "mean -0.75, deviation 1" in text


def test_splitting_the_state_and_microbatches_save_memory():
    config = GenerateConfig(dit=DIT_B, precision="bfloat16")
    whole = state_bytes(config, 8)
    split = {
        sharding: state_bytes(dataclasses.replace(config, sharding=sharding), 8)
        for sharding in ("zero", "fsdp")
    }
    assert split["zero"] == pytest.approx(whole * (1 + 3 / 8) / 4)
    assert split["fsdp"] == pytest.approx(whole / 8)
    fewer = dataclasses.replace(config, accumulate=4)
    assert step_bytes(fewer, 8) < step_bytes(config, 8) / 2
