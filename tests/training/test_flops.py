import dataclasses

import jax.random as jr
import pytest

from vtp_eqx.config import (
    DECODER_L4,
    DIT_B,
    PretrainConfig,
    PrototypeConfig,
    published,
    ReconstructionConfig,
    TransformerConfig,
    VIT_L,
)
from vtp_eqx.models.decoder import PixelDecoder
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.encoder import Encoder
from vtp_eqx.training.flops import (
    device_peak,
    generator_flops,
    known_peak,
    run_flops,
    train_flops,
)
from vtp_eqx.training.parameter_counts import encoder_flops, num_parameters


TOKENS = 256  # 256 pixels a side in patches of 16
PAPER = PretrainConfig(
    tokenizer=published(VIT_L, decoder=DECODER_L4), prototypes=PrototypeConfig()
)


def sample_flops(config: PretrainConfig) -> float:
    """Forward, of an image of the contrastive batch, by `train_flops`.

    Of that, a step has three times what the student costs, and the teacher once.
    """
    apart = dataclasses.replace(config, reconstruction_drop=0.1)  # a pass of its own
    share = config.distillation_batch / config.batch_size
    teacher = share * 2 * encoder_flops(config.tokenizer, config.views.global_size)
    teacher *= config.distillation_weight > 0
    return (train_flops(apart) / config.batch_size + 2 * teacher) / 3


def test_parameters_are_counted_without_being_made():
    # Would need 1.2 GB if it were built.
    count = num_parameters(lambda: Encoder(VIT_L, 16, "float32", key=jr.key(0)))
    assert count == pytest.approx(303.1e6, rel=2e-3)


@pytest.mark.parametrize(
    ("parameters", "expected"), [(171.2e6, 87.65e9), (607.2e6, 310.9e9)]
)
def test_two_operations_a_parameter_and_token_as_table_1(parameters, expected):
    # The paper's columns of parameters and of FLOPs are one another.
    assert 2 * parameters * TOKENS == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "expected"),
    [(768, 12, 12, 87.65e9), (1024, 24, 16, 310.9e9)],
)
def test_a_published_autoencoder_costs_what_table_1_says(width, depth, heads, expected):
    encoder = TransformerConfig(width=width, depth=depth, num_heads=heads)
    config = PretrainConfig(
        tokenizer=published(encoder, text=None),
        contrast_weight=0,
        distillation_weight=0,
        reconstruction_batch=PretrainConfig.batch_size,
    )
    assert sample_flops(config) == pytest.approx(expected, rel=2e-3)


def test_a_contrastive_sample_of_the_paper_costs_390_gigaflops():
    # VTP-L with the four-layer decoder of the ablations.
    assert sample_flops(PAPER) == pytest.approx(390e9, rel=0.01)


def test_a_sample_by_hand():
    encoder = num_parameters(lambda: Encoder(VIT_L, 16, "float32", key=jr.key(0)))
    decoder = num_parameters(
        lambda: PixelDecoder(DECODER_L4, 64, 16, "float32", key=jr.key(0))
    )
    rebuilt = 2048 / 16384 * (encoder + decoder) * 256
    # Two global crops for student and teacher, eight local ones of 6 x 6 patches.
    distilled = 4096 / 16384 * encoder * (4 * 256 + 8 * 36)
    alone = dataclasses.replace(PAPER, contrast_weight=0)
    assert sample_flops(alone) == pytest.approx(2 * (rebuilt + distilled))


def test_a_term_that_is_left_out_costs_nothing():
    parts = [
        dataclasses.replace(PAPER, **{name: 0 for name in left_out})
        for left_out in (
            ("contrast_weight", "distillation_weight"),
            ("contrast_weight", "reconstruction_weight"),
            ("distillation_weight", "reconstruction_weight"),
        )
    ]
    assert sum(map(sample_flops, parts)) == pytest.approx(sample_flops(PAPER))


def test_a_run_is_all_its_steps():
    assert run_flops(PAPER) == pytest.approx(train_flops(PAPER) * 67000)


def test_lpips_costs_what_its_network_does():
    # VGG16's convolutions are 15.35e9 multiplications for 224 pixels a side.
    side = 224 / 256
    looking = dataclasses.replace(
        PAPER, reconstruction=ReconstructionConfig(perceptual_weight=1.0)
    )
    more = (train_flops(looking) - train_flops(PAPER)) / PAPER.reconstruction_batch
    assert more == pytest.approx(3 * 2 * 15.35e9 / side**2, rel=1e-2)
    without = dataclasses.replace(looking, reconstruction_weight=0.0)
    same = dataclasses.replace(PAPER, reconstruction_weight=0.0)
    assert train_flops(without) == train_flops(same)


def test_a_generator_costs_two_operations_a_parameter_and_token():
    parameters = num_parameters(lambda: DiT(DIT_B, key=jr.key(0)))
    assert generator_flops(DIT_B) == 2 * parameters * TOKENS
    halved = dataclasses.replace(DIT_B, patch_size=2)
    assert generator_flops(halved) == pytest.approx(
        generator_flops(DIT_B) / 4, rel=0.01
    )


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_known_device_is_that_of_its_data_sheet(kind, peak):
    assert known_peak(kind) == peak


def test_the_peak_of_a_cpu_is_measured():
    peak, source = device_peak()
    assert 1e8 < peak < 1e14
    assert "measured" in source
