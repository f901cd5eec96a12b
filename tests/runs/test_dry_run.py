import dataclasses

import equinox as eqx
import jax
import pytest

from vtp_eqx.config import (
    PretrainConfig,
    PrototypeConfig,
    ReconstructionConfig,
    VTP_L,
)
from vtp_eqx.mesh import data_mesh, on_mesh, shard_batch
from vtp_eqx.runs.dry_run import dry_run, dry_run_lines, lowered_step
from vtp_eqx.training.flops import train_flops
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch


def test_the_largest_model_is_forecast_without_being_made():
    config = PretrainConfig(tokenizer=VTP_L, prototypes=PrototypeConfig())
    found = dry_run(config, data_mesh(1), 256, compiles=False)
    assert found.parameters["encoder"] == pytest.approx(303.1e6, rel=2e-3)
    # Parameters twice (student, teacher) but for decoder and text, and Adam's two.
    assert found.state_bytes > 4 * 3 * sum(found.parameters.values())
    lines = dry_run_lines(config, found, data_mesh(1), 1_000_000)
    text = "\n".join(lines)
    assert "reconstruction 2048 (12%, weight 0.1)" in text
    assert "seen 1.1e+03 times each" in text
    assert "1.00e-03 at 2000" in text  # behind the warmup


def test_a_state_that_is_split_is_smaller_on_each_device():
    config = PretrainConfig(tokenizer=VTP_L, prototypes=PrototypeConfig())
    whole, split = (
        dry_run(
            dataclasses.replace(config, sharding=sharding),
            data_mesh(8),
            256,
            compiles=False,
        ).state_bytes
        for sharding in ("none", "fsdp")
    )
    assert split == pytest.approx(whole / 8, rel=0.01)


@pytest.mark.slow
def test_a_forecast_knows_the_state_and_the_step_of_the_run(started):
    found = dry_run(started.config, started.mesh, 16)
    arrays = eqx.filter(started.start(), eqx.is_array)
    whole = sum(
        (
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        ).nbytes
        for leaf in jax.tree.leaves(arrays)
    )
    assert found.state_bytes == whole
    assert found.compiled_bytes is not None
    # The state and a batch are what a step is given.
    assert found.compiled_bytes["arguments"] == pytest.approx(whole, rel=0.1)
    assert found.compiled_flops is not None
    assert 0.5 < found.compiled_flops / found.formula_flops < 5


@pytest.mark.slow
def test_a_run_begun_after_its_forecast_compiles_nothing_anew(tiny, data):
    config = dataclasses.replace(
        tiny, contrast_weight=0.0, distillation_weight=0.0, sharding="zero"
    )
    mesh = data_mesh(4)
    state, step = init_pretraining(config, data["image"], mesh)
    batch = CaptionedBatch(data["image"][: config.batch_size], None)
    arrays = eqx.filter(on_mesh(state, mesh), eqx.is_array)
    of_run = step.compiled.lower(arrays, shard_batch(batch, mesh))
    assert lowered_step(config, mesh, 16).as_text() == of_run.as_text()


def test_a_step_that_learns_from_lpips_is_forecast_without_its_weights(tiny):
    coarse = dataclasses.replace(
        tiny, precision="bfloat16", contrast_weight=0.0, distillation_weight=0.0
    )
    looking = dataclasses.replace(
        coarse, reconstruction=ReconstructionConfig(perceptual_weight=1.0)
    )

    def count(config):
        program = lowered_step(config, data_mesh(1), 16).compiler_ir().operation
        # The weights, which are zeros, would be most of the text.
        return program.get_asm(large_elements_limit=8).count("convolution")

    assert count(looking) >= count(coarse) + 13  # of VGG16


def test_images_that_contrast_has_seen_are_not_encoded_once_more():
    config = PretrainConfig(tokenizer=VTP_L, prototypes=PrototypeConfig())
    apart = dataclasses.replace(config, distillation_weight=0, contrast_drop=0.1)
    shared = dataclasses.replace(apart, contrast_drop=0.0)
    encoder = 2 * 303.1e6 * 256 * config.reconstruction_batch
    saved = train_flops(apart) - train_flops(shared)
    assert saved == pytest.approx(3 * encoder, rel=2e-3)
