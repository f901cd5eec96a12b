import json

import pytest

from vtp_eqx.config import (
    as_json,
    FinetuneConfig,
    from_dict,
    GenerateConfig,
    presets,
    PretrainConfig,
)
from vtp_eqx.frozen.lpips import blank_perceptual
from vtp_eqx.training.adversarial_step import Optimizers
from vtp_eqx.training.optimizer import learning_rate
from vtp_eqx.training.pretrain import pretrain_objective


NAMES = [name for name in dir(presets) if name.startswith("PRETRAIN_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_can_be_run_and_kept(name):
    config = getattr(presets, name)
    num_devices = 1 if name.endswith("1_GPU") else 8
    looking = dict(perceptual=blank_perceptual())
    pretrain_objective(config, num_shards=num_devices, **looking)  # its batches divide
    learning_rate(config.optimizer, config.num_steps)  # its warmup ends
    assert from_dict(PretrainConfig, json.loads(as_json(config))) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_mixes_batches_as_the_paper(name):
    config = getattr(presets, name)
    assert config.batch_size == 4 * config.distillation_batch
    assert config.batch_size == 8 * config.reconstruction_batch


@pytest.mark.parametrize(
    ("batch", "rate"), [(16384, 1e-3), (4096, 5e-4), (1024, 2.5e-4)]
)
def test_the_learning_rate_falls_with_the_root_of_the_batch(batch, rate):
    config = presets.with_batch(presets.PRETRAIN_S, batch, seed=3)
    assert config.optimizer.learning_rate == pytest.approx(rate)
    assert (config.batch_size, config.seed) == (batch, 3)


GENERATORS = [name for name in dir(presets) if name.startswith("GENERATE_")]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_preset_of_a_generator_can_be_run_and_kept(name):
    config = getattr(presets, name)
    learning_rate(config.optimizer, config.num_steps)
    assert from_dict(GenerateConfig, json.loads(as_json(config))) == config


def test_generators_have_the_published_times_of_their_tokenizer():
    times = lambda config: (config.time_mean, config.time_std)
    assert times(presets.GENERATE_XL) == (-0.5, 1.25)
    assert times(presets.GENERATE_XL_ON_L) == (-0.75, 1.0)
    assert presets.GENERATE_XL.batch_size == 1024
    assert presets.GENERATE_XL.dit.residual == "float32"  # as under autocast


@pytest.mark.parametrize("name", ["RAE", "VA_VAE", "LAPTOP"])
def test_a_preset_of_stage_two_can_be_run_and_kept(name):
    config = getattr(presets, f"FINETUNE_{name}")
    Optimizers.of(config)  # their warmups end
    assert from_dict(FinetuneConfig, json.loads(as_json(config))) == config
