from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtp_eqx.losses.alignment import cosine_loss, similarity_loss


seeds = st.integers(0, 2**31 - 1)
angle = jax.jit(cosine_loss)
similarity = jax.jit(similarity_loss)


def grids(seed):
    rows = np.random.default_rng(seed).standard_normal((2, 4, 2, 3, 5))
    return rows.astype(np.float32)


def test_by_hand():
    # One row of two positions. The features are orthogonal there; latents are equal.
    features = np.float32([[[[1.0, 0.0], [0.0, 1.0]]]])
    latents = np.float32([[[[3.0, 0.0], [2.0, 0.0]]]])
    # Cosines 1 and 0 with a margin of 0.5: costs of 0 and 0.5.
    np.testing.assert_allclose(angle(latents, features, margin=0.5), [0.25])
    # Of four pairs of positions, two differ by 1, less the margin.
    np.testing.assert_allclose(similarity(latents, features, margin=0.2), [0.4])


@given(seed=seeds)
def test_only_directions_count(seed):
    latents, features = grids(seed)
    longer = latents * (0.5 + np.abs(features[..., :1]))
    for loss in (angle, similarity):
        expected = loss(latents, features, margin=0.1)
        ours = loss(longer, features, margin=0.1)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@given(seed=seeds)
def test_similarities_survive_a_rotation_and_another_width(seed):
    latents, _ = grids(seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).random((7, 7), np.float32))
    wider = latents @ rotation[:5]
    np.testing.assert_allclose(similarity(wider, latents, margin=0.0), 0, atol=1e-6)


@pytest.mark.parametrize("loss", [angle, similarity], ids=["angle", "similarity"])
@given(seed=seeds, order=st.permutations(range(4)))
def test_reordering_the_images_reorders_the_loss(loss, seed, order):
    latents, features = grids(seed)
    order = np.array(order)
    permuted = loss(latents[order], features[order], margin=0.1)
    expected = loss(latents, features, margin=0.1)[order]
    np.testing.assert_allclose(permuted, expected, rtol=1e-5)


def test_nan_is_an_error():
    latents, features = jnp.array(grids(0))
    for loss in (cosine_loss, similarity_loss):
        with pytest.raises(ValueError, match="`latents` must be finite"):
            loss(latents / 0, features, margin=0.0)
