"""LPC of decoders that one knows: none, the identity, and one that scales."""

import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.decoder_continuity import (
    Continuity,
    continuity,
    continuity_distances,
    pushed_latents,
    SHARES,
    WEIGHTS,
)
from vtp_eqx.evaluation.networks import (
    FeatureNetwork,
    NetworkOutputs,
    PerceptualNetwork,
)


def identity(latents):
    return latents


def ignorant(latents):
    return 0 * latents + 0.5


def square(image, other):
    return jnp.mean((image - other) ** 2)


@pytest.fixture(scope="module")
def latents():
    draw = np.random.default_rng(0)
    return draw.uniform(0.45, 0.55, size=(20, 4, 4, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def statistics(latents):
    return latents.mean(axis=(0, 1, 2)), latents.std(axis=(0, 1, 2))


def test_weights_fall_with_the_step():
    np.testing.assert_allclose(WEIGHTS, [0.741, 0.148, 0.074, 0.037], atol=5e-4)


def test_latents_are_pushed_by_shares_of_their_length(latents, statistics):
    mean, deviation = statistics
    rows = pushed_latents(latents, mean, deviation)
    np.testing.assert_array_equal(rows[:, 0], latents)
    norm = lambda grids: np.linalg.norm(grids.reshape(*grids.shape[:-3], -1), axis=-1)
    length = norm((latents - mean) / deviation)
    pushed = norm((rows[:, 1:] - latents[:, None]) / deviation)
    expected = np.repeat(SHARES, 4) * length[:, None]
    np.testing.assert_allclose(pushed, expected, rtol=1e-3)
    # Both ways: each length has two steps and their opposites.
    np.testing.assert_allclose(rows[:, 1] + rows[:, 3], 2 * latents, atol=1e-5)


def test_a_channel_that_never_varies_is_not_pushed(latents):
    still = latents.copy()
    still[..., 1] = 0.5
    mean, deviation = still.mean(axis=(0, 1, 2)), still.std(axis=(0, 1, 2))
    deviation[1] = 0
    rows = pushed_latents(still, mean, deviation)
    np.testing.assert_array_equal(rows[..., 1], 0.5)
    assert np.isfinite(rows).all()


def test_pixels_of_the_identity_go_as_far_as_latents(latents, statistics):
    rows = pushed_latents(latents, *statistics)
    found = in_batches(continuity_distances, Continuity(identity), rows)["pixels"]
    by_share = found.reshape(20, len(SHARES), -1).mean(axis=(0, 2))
    # Values stay in [0, 1], where nothing is clipped.
    np.testing.assert_allclose(by_share / by_share[0], np.array(SHARES) / SHARES[0],
                               rtol=1e-3)  # fmt: skip


def test_a_decoder_that_ignores_its_latents_is_continuous(latents, statistics):
    rows = pushed_latents(latents, *statistics)
    found = in_batches(continuity_distances, Continuity(ignorant), rows)
    np.testing.assert_array_equal(found["pixels"], 0)


def test_lpips_is_given_as_it_is_and_beside_that_of_two_images(latents, statistics):
    models = Continuity(identity, None, PerceptualNetwork(square, "0"))
    panel = continuity(models, latents, *statistics)
    assert panel.keys() == {"pixels", "LPIPS", "LPIPS, relative"}
    others = np.mean((latents - np.roll(latents, 1, axis=0)) ** 2)
    expected = panel["LPIPS"].value / others
    assert panel["LPIPS, relative"].value == pytest.approx(expected, rel=1e-3)
    assert panel["pixels"].count == 20


def test_steps_as_long_as_latents_go_about_as_far_as_other_images():
    """Gaussian latents: a step of length 1 is 1 / sqrt(2) of the way to another."""
    draw = np.random.default_rng(1)
    latents = (0.5 + 0.02 * draw.normal(size=(60, 4, 4, 3))).astype(np.float32)
    mean, deviation = np.full(3, 0.5, np.float32), np.full(3, 0.02, np.float32)
    found = continuity(Continuity(identity), latents, mean, deviation)["pixels"]
    expected = np.dot(WEIGHTS, SHARES) / 2**0.5
    assert found.value == pytest.approx(expected, rel=0.05)
    assert found.low < found.value < found.high


def test_distances_in_features():
    corner = lambda model, image: NetworkOutputs(image[0, 0])
    network = FeatureNetwork(None, corner, "scene-network", "0", None)
    images = jnp.zeros((2, 4, 4, 3)).at[1, 0, 0].set(jnp.array([0.3, 0, 0.4]))
    found = Continuity(identity, network).distances(*images)
    assert found["features"] == pytest.approx(0.5)
