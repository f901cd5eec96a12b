"""Sampling by a trained transformer, and what it refuses."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig, SamplerConfig
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import (
    Generator,
    guided_velocity,
    load_generator,
    save_generator,
)
from vtp_eqx.models.weights import save_weights


LABELS = jnp.array([0, 3], jnp.int32)
SAMPLER = SamplerConfig(num_steps=2)


@pytest.fixture(scope="module")
def generator():
    config = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=3, latent_size=2, num_classes=4
    )
    dit = eqx.filter_jit(lambda key: DiT(config, key=key))(jr.key(0))
    return Generator(dit, latents_hash="abc")


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_new_generator_returns_its_noise(generator, solver, getkey):
    # Its velocity is zero, guided or not.
    key = getkey()
    sampler = dataclasses.replace(SAMPLER, solver=solver, guidance=2.0)
    latents = generator.sample(LABELS, sampler, latents_hash="abc", key=key)
    np.testing.assert_array_equal(latents, jr.normal(key, (2, 2, 2, 3)))


def test_other_statistics_are_refused(generator, getkey):
    with pytest.raises(ValueError, match=r"'abd' for 'abc'.*load the tokenizer"):
        generator.sample(LABELS, SAMPLER, latents_hash="abd", key=getkey())


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_that_do_not_exist_are_refused(generator, label):
    with pytest.raises(ValueError, match="Labels are 0 to 3, and 4 for any class"):
        guided_velocity(generator.dit, jnp.array([label]), SAMPLER)


def test_a_saved_generator_is_loaded_to_the_last_bit(generator, tmp_path):
    path = tmp_path / "generator.safetensors"
    save_generator(generator, path)
    assert eqx.tree_equal(load_generator(path), generator)


def test_another_file_is_no_generator(generator, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(generator.dit, path, {"latents": "abc"})
    with pytest.raises(ValueError, match=r"got \['latents'\] in"):
        load_generator(path)
    with pytest.raises(FileNotFoundError, match=r"got no none\.safetensors"):
        load_generator(tmp_path / "none.safetensors")
