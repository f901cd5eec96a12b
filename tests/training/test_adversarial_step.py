"""Stage two: what is the same on any number of devices, and numbers of torch."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.models.test_discriminator import published
from vtp_eqx.config import (
    AdversarialConfig,
    AugmentConfig,
    DiscriminatorConfig,
    FinetuneConfig,
    OptimizerConfig,
    ReconstructionConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.patches import unpatchify
from vtp_eqx.training.adversarial_step import init_finetuning
from vtp_eqx.training.decode import EncodedBatch
from vtp_eqx.training.state import copy_arrays


GOLDEN = Path(__file__).parents[1] / "golden" / "discriminator"
PATCH_SIZE, CHANNELS = 4, 6
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3, warmup_steps=0, schedule="constant", eps=1e-3
)
CONFIG = FinetuneConfig(
    reconstruction=ReconstructionConfig(),
    adversarial=AdversarialConfig(
        discriminator=DiscriminatorConfig(width=4, num_layers=1),
        augment=AugmentConfig(cutout=0.25),
        optimizer=OPTIMIZER,
        discriminator_start=0,
        decoder_start=0,
        lecam_weight=0.1,
        lecam_decay=0.5,
    ),
    optimizer=OPTIMIZER,
    ema_decay=0.5,
    batch_size=8,
    num_steps=10,
)


class Readout(eqx.Module):
    """The smallest decoder: its last layer alone, which compiles at once."""

    to_pixels: Linear
    patch_size: int = eqx.field(static=True)

    def tokens(self, latents):
        return latents.reshape(-1, latents.shape[-1])

    def batch(self, latents):
        arrange = lambda rows: unpatchify(rows, latents.shape[1:3], self.patch_size)
        return jax.vmap(lambda one: arrange(self.to_pixels(self.tokens(one))))(latents)


@pytest.fixture(scope="module")
def tokenizer():
    """Its normalized pixels are colors in [-1, 1]."""
    shape = TransformerConfig(width=8, depth=1, num_heads=2)
    half = (0.5, 0.5, 0.5)
    config = TokenizerConfig(
        encoder=shape, decoder=shape, image_size=16, patch_size=PATCH_SIZE,
        latent_width=CHANNELS, pixel_mean=half, pixel_std=half,
    )  # fmt: skip
    tokenizer = eqx.filter_jit(Tokenizer)(config, key=jr.key(0))
    layer = Linear(CHANNELS, 3 * PATCH_SIZE**2, std=0.3, key=jr.key(1))
    readout = Readout(layer, PATCH_SIZE)
    return eqx.tree_at(lambda tokenizer: tokenizer.decoder, tokenizer, readout)


def batch(number=0):
    draw = np.random.default_rng(number)
    image = draw.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    return EncodedBatch(image, draw.standard_normal((8, 4, 4, 6)).astype(np.float32))


def after(num_steps, tokenizer, config=CONFIG, num_devices=1, batches=batch):
    """The states before and after each step, and the metrics of each."""
    mesh = data_mesh(num_devices)
    state, step = init_finetuning(config, tokenizer, mesh)
    return take(num_steps, state, step, mesh, batches)


def take(num_steps, state, step, mesh, batches=batch):
    states, logged = [copy_arrays(state)], []
    for number in range(num_steps):
        state, metrics = step(state, shard_batch(batches(number), mesh))
        states.append(copy_arrays(state))
        logged.append({name: float(value) for name, value in metrics.items()})
    return states, logged


def broken_at_2(number):
    made = batch(number)
    if number == 2:
        made.latents[3] = np.nan
    return made


@pytest.fixture(scope="module")
def alone(tokenizer):
    """Three steps on one device, of which the last has no finite loss."""
    return after(3, tokenizer, batches=broken_at_2)


def with_changes(config, **changes):
    adversarial = dataclasses.replace(config.adversarial, **changes)
    return dataclasses.replace(config, adversarial=adversarial)


def test_losses_and_the_adaptive_weight_agree_with_torch(tokenizer):
    golden = load_file(GOLDEN / "io.safetensors")
    still = dataclasses.replace(OPTIMIZER, learning_rate=0.0)
    config = with_changes(
        dataclasses.replace(CONFIG, optimizer=still),
        discriminator=DiscriminatorConfig(width=8),
        augment=AugmentConfig(rate=0.0), weight=1.0, weight_eps=1e-4, lecam_weight=0.0,
    )  # fmt: skip
    where = lambda tokenizer: (
        tokenizer.decoder.to_pixels.weight, tokenizer.decoder.to_pixels.bias
    )  # fmt: skip
    last_layer = (jnp.asarray(golden["last_weight"]), jnp.asarray(golden["last_bias"]))
    mesh = data_mesh(1)
    state, step = init_finetuning(
        config, eqx.tree_at(where, tokenizer, last_layer), mesh
    )
    known = published(load_file(GOLDEN / "model.safetensors"))
    state = eqx.tree_at(lambda state: state.student.discriminator, state, known)
    latents = golden["tokens"].reshape(3, 8, 8, CHANNELS)
    _, metrics = step(state, shard_batch(EncodedBatch(golden["target"], latents), mesh))
    for name in (
        "reconstruction", "adversarial", "reconstruction_norm", "adversarial_norm",
        "adaptive_weight", "discriminator",
    ):  # fmt: skip
        np.testing.assert_allclose(metrics[name], golden[name][0], rtol=1e-4)


def test_the_total_is_reconstruction_and_what_the_adversary_is_worth(alone):
    states, logged = alone
    for metrics in logged[:2]:
        weight = metrics["adaptive_weight"]
        ratio = metrics["reconstruction_norm"] / (metrics["adversarial_norm"] + 1e-6)
        assert weight == pytest.approx(0.75 * ratio, rel=1e-4)
        total = metrics["reconstruction"] + weight * metrics["adversarial"]
        assert metrics["total"] == pytest.approx(total, rel=1e-4)
    # LeCam's averages are of the logits so far, and the teacher is of the decoder.
    first, second = (line["real_logit"] for line in logged[:2])
    average = 0.5 * (0.5 * first) + 0.5 * second
    state = states[2]
    assert float(state.student.running.real_logit) == pytest.approx(average, rel=1e-4)
    assert not eqx.tree_equal(state.teacher, state.student.decoder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_devices", "accumulate", "sharding"),
    [(2, 1, "fsdp"), (4, 2, "zero"), (8, 1, "none")],
)
def test_devices_and_microbatches_do_not_change_the_update(
    num_devices, accumulate, sharding, tokenizer, alone
):
    config, expected = CONFIG, alone
    if accumulate > 1:
        shape = dataclasses.replace(CONFIG.adversarial.discriminator, norm="group")
        config = with_changes(CONFIG, discriminator=shape)
        expected = after(2, tokenizer, config)
    config = dataclasses.replace(config, accumulate=accumulate, sharding=sharding)
    states, logged = after(2, tokenizer, config, num_devices)
    for found, wanted in zip(logged, expected[1][:2], strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(
                found[name], value, rtol=1e-3, atol=1e-5, err_msg=name
            )
    learned = lambda state: named_arrays((state.student, state.teacher))
    found = learned(states[2])
    for name, value in learned(expected[0][2]).items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-3, atol=2e-5, err_msg=name
        )


@pytest.fixture(scope="module")
def in_turn(tokenizer):
    """Three steps where one network begins after the other, and the first once more."""
    config = with_changes(CONFIG, discriminator_start=1, decoder_start=2)
    mesh = data_mesh(1)
    state, step = init_finetuning(config, tokenizer, mesh)
    states, logged = take(3, state, step, mesh)
    _, again = take(1, copy_arrays(states[0]), step, mesh)
    return states, logged, again


def test_each_network_begins_at_its_own_step(in_turn):
    states, logged, _ = in_turn
    before, first, second = (state.student for state in states[:3])
    assert not eqx.tree_equal(before.decoder, first.decoder)
    assert eqx.tree_equal(before.discriminator, first.discriminator)
    assert not eqx.tree_equal(first.discriminator, second.discriminator)
    assert [line["discriminator"] > 0 for line in logged] == [False, True, True]
    assert [line["adversarial"] != 0 for line in logged] == [False, False, True]
    assert [line["adaptive_weight"] > 0 for line in logged] == [False, False, True]


def test_a_state_that_was_rolled_back_is_in_its_own_phase(in_turn):
    _, logged, again = in_turn
    assert again == logged[:1]


def test_a_step_that_is_not_finite_changes_neither_network(alone):
    states, logged = alone
    assert [line["skipped"] for line in logged] == [0, 0, 1]
    parts = lambda state: (state.student, state.teacher, state.opt_state)
    assert eqx.tree_equal(parts(states[3]), parts(states[2]))
    assert int(states[3].step) == 3


def test_a_collapse_is_counted(tokenizer):
    gray = eqx.tree_at(
        lambda tokenizer: tokenizer.decoder.to_pixels.weight, tokenizer,
        replace_fn=jnp.zeros_like,
    )  # fmt: skip
    still = dataclasses.replace(OPTIMIZER, learning_rate=0.0)
    config = dataclasses.replace(CONFIG, optimizer=still)
    _, logged = after(3, gray, config)
    assert [line["flat_steps"] for line in logged] == [1, 2, 3]
    assert [line["saturated_steps"] for line in logged] == [0, 0, 0]
