"""Spectra, likeness of cells and neighbors: hand-worked grids, and invariances."""

import numpy as np
import pytest

from vtp_eqx.evaluation.latent_structure import (
    cell_masks,
    cosine_profile,
    energy_maps,
    far_distance,
    grid_distances,
    is_high_frequency,
    local_correlation,
    local_distance_similarity,
    neighbor_shares,
    object_similarity,
    pooled,
    quarters,
)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(300, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def turn():
    return np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]


def high_share(latents, part):
    energy = energy_maps(latents)
    is_high = is_high_frequency(*latents.shape[1:3], part)
    return energy[:, is_high].sum() / energy.sum()


@pytest.mark.parametrize(
    ("side", "quarter", "half"),
    [(4, 0.812, 0.375), (8, 0.844, 0.438), (14, 0.857, 0.464), (16, 0.859, 0.469)],
)
def test_the_shares_of_white_noise(side, quarter, half):
    found = [is_high_frequency(side, side, part).mean() for part in (0.25, 0.5)]
    assert found == pytest.approx([quarter, half], abs=6e-4)


def test_white_noise_has_them(noise):
    for part in (0.25, 0.5):
        expected = is_high_frequency(8, 8, part).mean()
        assert high_share(noise, part) == pytest.approx(expected, rel=0.01)


def test_energy_is_kept_and_a_constant_has_the_lowest_frequency_alone(noise, turn):
    energy = energy_maps(noise)
    np.testing.assert_allclose(energy.sum((1, 2)), (noise**2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(energy_maps(noise @ turn), energy, rtol=1e-3, atol=1e-4)
    still = np.broadcast_to(noise[:, :1, :1], noise.shape)
    assert high_share(still, 0.25) < 1e-10
    # Alternating signs have the highest one, down and across.
    chess = (-1.0) ** np.add.outer(np.arange(8), np.arange(8))
    assert energy_maps(chess[None, ..., None])[0].argmax() == 63


def test_distances_of_a_grid():
    np.testing.assert_array_equal(grid_distances(2, 3)[0], [0, 1, 2, 1, 2, 3])


def similarity(latents, *, centered=False, near=2.0, far=3):
    sides = latents.shape[1:3]
    profile = cosine_profile(latents, centered=centered)
    return local_distance_similarity(profile, *sides, near=near, far=far)


def test_equal_cells_are_as_like_far_as_near(noise):
    still = np.broadcast_to(noise[:, :1, :1], noise.shape)
    np.testing.assert_allclose(similarity(still), 0, atol=1e-5)
    # Centered, nothing is left of them, and of nothing the cosine is 0.
    zeros = np.zeros((2, 4, 4, 3))
    np.testing.assert_array_equal(similarity(zeros, centered=True), 0)


def test_the_likeness_of_two_halves_by_hand():
    """A row of four cells: two of one kind, two of the other, at a right angle."""
    latents = np.array([[[[1.0, 0], [1, 0], [0, 1], [0, 1]]]])
    # Neighbors: two pairs of three are alike. Far, at 2 or more: none of three.
    np.testing.assert_allclose(similarity(latents, far=2), [2 / 3])
    np.testing.assert_allclose(
        cosine_profile(latents, centered=False), [[1, 2 / 3, 0, 0]], atol=1e-6
    )
    # Centered, the kinds are opposite: (1 - 1 + 1) / 3 less -1.
    np.testing.assert_allclose(similarity(latents, centered=True, far=2), [4 / 3])


def test_grids_without_pairs_of_one_kind(noise):
    assert similarity(noise[:, :1, :1]) is None  # one cell
    assert similarity(noise[:, :2, :2], near=1, far=1) is None
    assert np.isfinite(similarity(noise[:, :1])).all()  # one row


def test_likeness_knows_no_basis_and_no_scale(noise, turn):
    for centered in (False, True):
        expected = similarity(noise, centered=centered)
        for other in (noise @ turn, 3 * noise, noise[:, ::-1]):
            found = similarity(other, centered=centered)
            np.testing.assert_allclose(found, expected, atol=1e-5)
    # Of noise, cells are alike nowhere.
    assert abs(expected.mean()) < 0.02


def test_far_is_as_published_on_a_grid_of_16():
    assert [far_distance(side, side) for side in (16, 8, 4)] == [6, 3, 2]


def test_an_object_unlike_its_background():
    latents = np.zeros((1, 1, 6, 2))
    latents[..., :3, 0], latents[..., 3:, 1] = 1, 1
    mask = np.array([[[True, True, True, False, False, False]]])
    # Far is 2 or more: every foreground cell has a background cell at a right angle.
    np.testing.assert_allclose(object_similarity(latents, mask), [1.0])
    latents[..., 3:, :] = [1, 0]
    np.testing.assert_allclose(object_similarity(latents, mask), [0.0])


def test_images_without_an_anchor_are_not_counted(noise):
    everywhere = np.ones((2, 8, 8), bool)
    single = np.zeros((1, 8, 8), bool)
    single[0, 0, 0] = True  # has no foreground neighbor
    masks = np.concatenate([everywhere, ~everywhere, single])
    assert np.isnan(object_similarity(noise[:5], masks)).all()


def test_masks_become_cells_by_majority():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, :2, :2] = True
    masks[0, 0, 2], masks[0, 2, :2] = True, True
    np.testing.assert_array_equal(
        cell_masks(masks, 2, 2), [[[True, False], [False] * 2]]
    )
    with pytest.raises(ValueError, match=r"4 x 4.*multiples.*3 x 3"):
        cell_masks(masks, 3, 3)


def test_pooling(noise):
    mask = np.zeros((300, 8, 8), bool)
    mask[:, 2, 3] = True
    np.testing.assert_allclose(pooled(noise, mask), noise[:, 2, 3])
    # Without foreground, the whole image.
    np.testing.assert_allclose(pooled(noise, ~mask & mask), pooled(noise), atol=1e-6)
    np.testing.assert_allclose(
        quarters(noise)[:, 4:8], noise[:, :4, 4:].mean(axis=(1, 2)), atol=1e-6
    )


def test_one_vector_a_class_and_chance():
    labels = np.repeat(np.arange(4), [5, 6, 7, 8])
    vectors = np.eye(4)[labels]
    for among in (1, 4):
        same, chance = neighbor_shares(vectors, labels, among)
        np.testing.assert_array_equal(same, 1)
    np.testing.assert_allclose(chance[[0, -1]], [4 / 25, 7 / 25])


def test_neighbors_by_hand():
    """Directions of 0, 10, 90, 100 and 180 degrees, and two of their own opposites."""
    angles = np.deg2rad([0.0, 10, 90, 100, 180, 190, 270, 280])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 0, 1, 2, 1, 1, 0, 2])
    same, _ = neighbor_shares(vectors, labels, 1)
    np.testing.assert_array_equal(same, [1, 1, 0, 0, 1, 1, 0, 0])


def test_shuffled_labels_are_met_by_chance(noise):
    labels = np.random.default_rng(2).permutation(np.arange(300) % 5)
    same, chance = neighbor_shares(pooled(noise), labels, 10)
    assert same.mean() == pytest.approx(chance.mean(), abs=0.02)


def test_neighbors_know_no_basis_no_scale_no_offset(noise, turn):
    labels = np.arange(300) % 5
    rows = pooled(noise).astype(np.float64)
    expected, _ = neighbor_shares(rows, labels, 3)
    for other in (rows @ turn, 2 * rows, rows + 9):
        np.testing.assert_allclose(neighbor_shares(other, labels, 3)[0], expected)


def test_more_neighbors_than_there_are():
    with pytest.raises(ValueError, match=r"`num_neighbors` \(3\).*3 rows"):
        neighbor_shares(np.eye(3), np.arange(3), 3)


def test_local_correlation(noise):
    still = np.broadcast_to(noise[:, :1, :1], noise.shape)
    np.testing.assert_allclose(local_correlation(still), 1, atol=1e-5)
    assert abs(local_correlation(noise).mean()) < 0.02
    # One window of two kinds, each like one other and opposite to two: -2/6 of pairs.
    kinds = np.array([[[[1.0, -1], [1, -1]], [[-1, 1], [-1, 1]]]])
    np.testing.assert_allclose(local_correlation(kinds), [-1 / 3])
