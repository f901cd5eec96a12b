"""A generator of captions learns which latent belongs to which text."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig, GenerateConfig, OptimizerConfig, SamplerConfig
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.generator import sample_latents
from vtp_eqx.models.text import TextFeatures
from vtp_eqx.training.generate import init_generator_training, LatentBatch


CONFIG = GenerateConfig(
    dit=DiTConfig(
        width=32, depth=1, num_heads=2, latent_size=2, latent_width=3,
        condition="text", text_context=4, text_width=6,
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, schedule="constant"
    ),
    ema_decay=0.9,
    batch_size=16,
    num_steps=300,
)  # fmt: skip
RNG = np.random.default_rng(0)
LATENTS = RNG.normal(size=(2, 2, 2, 3)).astype(np.float32)
TEXTS = TextFeatures(
    RNG.normal(size=(2, 4, 6)).astype(np.float32), np.array([3, 4], np.int32)
)


def rows(numbers):
    """The pairs of those numbers."""
    return jax.tree.map(lambda array: array[numbers], LatentBatch(LATENTS, TEXTS))


@pytest.mark.slow
def test_each_of_two_captions_gives_its_own_latent():
    mesh = data_mesh(1)
    state, step = init_generator_training(CONFIG, mesh)
    batch = shard_batch(rows(np.arange(16) % 2), mesh)
    for _ in range(CONFIG.num_steps):
        state, _ = step(state, batch)
    noise = jr.normal(jr.key(7), (8, 2, 2, 3))
    asked = rows(np.arange(8) % 2)
    texts = jax.tree.map(jnp.asarray, asked.condition)
    sampler = SamplerConfig(num_steps=20, time_shift=0)
    found = np.asarray(sample_latents(state.teacher, texts, noise, sampler))
    distance = lambda latents: np.sqrt(np.mean((found - latents) ** 2, axis=(1, 2, 3)))
    apart = np.sqrt(np.mean((LATENTS[0] - LATENTS[1]) ** 2))
    assert distance(asked.latents).max() < apart / 3
    assert distance(asked.latents[::-1]).min() > 2 * apart / 3


@pytest.mark.slow
def test_two_devices_update_as_one():
    config = dataclasses.replace(CONFIG, batch_size=8)
    updated = []
    for count in (1, 2):
        mesh = data_mesh(count)
        state, step = init_generator_training(config, mesh)
        for first in (0, 1):
            state, _ = step(state, shard_batch(rows((np.arange(8) + first) % 2), mesh))
        updated.append(jax.device_get(state.student))
    one, two = map(jax.tree.leaves, updated)
    for alone, together in zip(one, two, strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
