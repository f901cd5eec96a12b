"""Presets at scale, as trainings so small that a CPU takes their first 50 steps."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.conftest import captioned
from vtp_eqx.config import presets, PretrainConfig, PrototypeConfig, TextConfig
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.training.optimizer import leaf_path, network_of
from vtp_eqx.training.pretrain import init_pretraining


NUM_STEPS = 50


def twin(config: PretrainConfig, like: PretrainConfig) -> PretrainConfig:
    """`config` with the sizes of `like`; all else is that of the preset.

    LPIPS is left out, whose network is a file.
    """
    shape = config.tokenizer
    small = dict(width=16, depth=2, num_heads=2)
    optimizer = config.optimizer
    share = NUM_STEPS / config.num_steps
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(
            shape,
            encoder=dataclasses.replace(shape.encoder, **small),
            decoder=dataclasses.replace(shape.decoder, **small),
            text=TextConfig(
                context=6, vocabulary=20, width=8, depth=1, num_heads=2,
                remat=shape.text.remat,
            ),
            image_size=16,
            patch_size=4,
            latent_width=4,
        ),
        prototypes=PrototypeConfig(
            num_prototypes=16, hidden_width=8, bottleneck_width=4, init_std=0.2
        ),
        views=like.views,
        distillation=dataclasses.replace(config.distillation, koleo_group=4),
        reconstruction=dataclasses.replace(
            config.reconstruction, perceptual_weight=0.0
        ),
        optimizer=dataclasses.replace(
            optimizer,
            warmup_steps=round(optimizer.warmup_steps * share),
            freeze_prototypes=round(optimizer.freeze_prototypes * share),
        ),
        batch_size=like.batch_size,
        distillation_batch=like.distillation_batch,
        reconstruction_batch=like.reconstruction_batch,
        accumulate=1,
        num_steps=NUM_STEPS,
    )  # fmt: skip


@pytest.mark.slow
def test_the_first_steps_in_bfloat16_are_finite_and_near_those_of_float32(tiny, data):
    # Of the preset that has most to lose: the highest rate of dropping, and remat.
    config = twin(presets.PRETRAIN_L_ABLATION, tiny)
    assert config.precision == "bfloat16"
    mesh, moments = data_mesh(1), []
    for precision in ("float32", "bfloat16"):
        chosen = dataclasses.replace(config, precision=precision)
        state, step = init_pretraining(chosen, np.zeros((0, 16, 16, 3)), mesh)
        batches = itertools.islice(captioned(config, data, 0), NUM_STEPS)
        for count, batch in enumerate(batches):
            state, metrics = step(state, shard_batch(batch, mesh))
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
