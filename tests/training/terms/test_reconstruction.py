import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from vtp_eqx.config import DecodeConfig, ReconstructionConfig
from vtp_eqx.losses.reconstruction import l1_loss
from vtp_eqx.training.decode import decode_objective
from vtp_eqx.training.pretrain import pretrain_objective
from vtp_eqx.training.terms.reconstruction import pixel_loss


LOOKING = ReconstructionConfig(perceptual_weight=0.5)


class Difference:
    """Stands for LPIPS: a distance that knows its two images apart."""

    def __call__(self, image, other):
        return jnp.mean(jnp.abs(3 * image - other))


def halved(pixels):
    return pixels / 2


@pytest.fixture(scope="module")
def images():
    return jr.normal(jr.key(0), (2, 3, 8, 8, 3))


def test_lpips_looks_at_colors_and_counts_as_its_weight_says(images):
    rebuilt, targets = images
    found = pixel_loss(rebuilt, targets, LOOKING, Difference(), halved)
    for row in range(3):
        looked = Difference()(rebuilt[row] / 2, targets[row] / 2)
        expected = l1_loss(rebuilt, targets)[row] + 0.5 * looked
        assert found[row] == pytest.approx(float(expected), rel=1e-6)


def test_what_is_compared_with_learns_nothing_from_lpips(images):
    config = dataclasses.replace(LOOKING, l1_weight=0.0)
    loss = lambda rebuilt, targets: jnp.sum(
        pixel_loss(rebuilt, targets, config, Difference(), halved)
    )
    to_rebuilt, to_targets = jax.grad(loss, argnums=(0, 1))(*images)
    assert jnp.abs(to_rebuilt).min() > 0
    assert jnp.abs(to_targets).max() == 0


def test_lpips_without_its_network_is_refused(tiny, started):
    config = dataclasses.replace(tiny, reconstruction=LOOKING)
    with pytest.raises(ValueError, match="LPIPS needs the published weights"):
        pretrain_objective(config, num_shards=1)
    decode = DecodeConfig(decoder=tiny.tokenizer.decoder, reconstruction=LOOKING)
    with pytest.raises(ValueError, match="LPIPS needs the published weights"):
        decode_objective(decode, started.start().student.tokenizer)


def test_colors_of_a_bfloat16_decoder_are_not_rounded_once_more(images):
    rebuilt = images[0].astype(jnp.bfloat16)
    apart = lambda image, other: jnp.mean(jnp.abs(image - other))
    third = lambda pixels: pixels * jnp.asarray(1 / 3, pixels.dtype)
    found = pixel_loss(rebuilt, rebuilt.astype(jnp.float32), LOOKING, apart, third)
    assert (found == 0).all()
