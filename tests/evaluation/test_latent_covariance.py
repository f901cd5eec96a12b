"""VIV and flow losses: closed forms, designs whose covariance is exact, invariances."""

import numpy as np
import pytest

from vtp_eqx.evaluation import latent_covariance as module
from vtp_eqx.evaluation.latent_covariance import (
    class_covariances,
    exact_eigenvalues,
    gaussian_flow_loss,
    kronecker_eigenvalues,
    participation_ratio,
    spectrum,
    velocity_variance,
)


POSITIONS, CHANNELS = 3, 4
NUMBERS = POSITIONS * CHANNELS


def design(positions, channels):
    """Images of mean 0 whose covariance is exactly a product, once divided by count.

    That of positions is `positions positions'`, that of channels `channels' channels`.
    """
    basis = np.eye(len(positions) * len(channels))
    basis = basis.reshape(-1, len(positions), len(channels))
    images = positions @ np.concatenate([basis, -basis]) @ channels
    return images * np.sqrt(len(basis))


def rotation(width, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


@pytest.fixture(scope="module")
def product():
    draw = np.random.default_rng(1)
    positions = draw.normal(size=(POSITIONS, POSITIONS))
    channels = draw.normal(size=(CHANNELS, CHANNELS))
    of = np.kron(positions @ positions.T, channels.T @ channels)
    return design(positions, channels), np.linalg.eigvalsh(of)[::-1]


@pytest.mark.parametrize("fit", [exact_eigenvalues, kronecker_eigenvalues])
def test_a_product_of_covariances_has_its_eigenvalues(product, fit):
    images, expected = product
    found = fit(images, len(images))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected[0])


def test_another_covariance_is_no_product_but_has_the_variance():
    draw = np.random.default_rng(2)
    images = draw.normal(size=(50, NUMBERS)) @ draw.normal(size=(NUMBERS, NUMBERS))
    images = (images - images.mean(axis=0)).reshape(50, POSITIONS, CHANNELS)
    of_product, of_full = (
        fit(images, 49) for fit in (kronecker_eigenvalues, exact_eigenvalues)
    )
    assert of_product.sum() == pytest.approx(of_full.sum())
    assert abs(of_product[0] / of_full[0] - 1) > 0.05


@pytest.mark.parametrize(
    ("eigenvalue", "uniform", "normal", "noisy"),
    [
        (1.0, 1.571, 1.741, 1.662),
        (0.25, 0.785, 0.811, 0.600),
        (0.01, 0.157, 0.081, 0.037),
    ],
)
def test_known_integrals(eigenvalue, uniform, normal, noisy):
    of = np.array([eigenvalue])
    assert velocity_variance(of) == pytest.approx(uniform, abs=6e-4)
    assert velocity_variance(of, times=(0, 1)) == pytest.approx(normal, abs=2e-3)
    assert velocity_variance(of, times=(-0.75, 1)) == pytest.approx(noisy, abs=2e-3)


def test_it_is_the_error_of_the_best_linear_guess():
    """Least squares on draws of the path: another way to the same number."""
    draw = np.random.default_rng(3)
    count, deviations = 40_000, np.array([1.2, 0.5, 0.1])
    data = draw.normal(size=(count, 3)) * deviations
    noise = draw.normal(size=(count, 3))
    errors = []
    for t in (np.arange(20) + 0.5) / 20:
        at, velocity = t * data + (1 - t) * noise, data - noise
        slope = np.sum(at * velocity, axis=0) / np.sum(at**2, axis=0)
        errors.append(np.mean((velocity - slope * at) ** 2))
    expected = velocity_variance(deviations**2)
    assert np.mean(errors) == pytest.approx(expected, rel=0.02)


def labelled(spread, *, classes=4):
    """Exactly isotropic classes of variance `spread`, around means of 1 less."""
    own = design(np.eye(POSITIONS), np.eye(CHANNELS)) * np.sqrt(spread)
    own *= np.sqrt((len(own) - 1) / len(own))  # the unbiased variance is `spread`
    means = rotation(NUMBERS)[:classes].reshape(classes, 1, POSITIONS, CHANNELS)
    images = (own + 3 * means).reshape(-1, POSITIONS, CHANNELS)
    return images, np.repeat(np.arange(classes), len(own))


@pytest.mark.parametrize("spread", [1.0, 0.25])
def test_viv_of_isotropic_classes(spread):
    images, labels = labelled(spread)
    found = class_covariances(images, labels)
    panel = found.panel()
    assert panel["VIV"].value == pytest.approx(np.pi / 2 * spread**0.5, rel=1e-4)
    assert panel["VIV exact"].value == pytest.approx(panel["VIV"].value, rel=1e-4)
    assert panel["VIV spread"].value == pytest.approx(spread, rel=1e-6)
    assert panel["VIV shape"].value == pytest.approx(1, rel=1e-4)
    assert (panel["VIV"].count, found.least) == (4, 24)


@pytest.fixture(scope="module")
def drawn():
    draw = np.random.default_rng(5)
    mixing = draw.normal(size=(CHANNELS, CHANNELS))
    labels = np.arange(120) % 3
    images = draw.normal(size=(120, POSITIONS, CHANNELS)) @ mixing
    return images + labels[:, None, None], labels


def numbers(images, labels):
    panel = class_covariances(images, labels).panel()
    return [panel[name].value for name in ("VIV", "VIV spread", "VIV shape")]


def test_viv_knows_neither_the_order_nor_the_basis(drawn):
    images, labels = drawn
    expected = numbers(images, labels)
    order = np.random.default_rng(0).permutation(len(images))
    for other, of in (
        (images[order], labels[order]),
        (images[:, [2, 0, 1]], labels),
        (images @ rotation(CHANNELS), labels),
        (images + 5, 7 - labels),
    ):
        np.testing.assert_allclose(numbers(other, of), expected, rtol=1e-5)


def test_viv_grows_with_the_deviation(drawn):
    images, labels = drawn
    once, twice = numbers(images, labels), numbers(2 * images, labels)
    np.testing.assert_allclose(twice, [2 * once[0], 4 * once[1], once[2]], rtol=1e-6)


def test_small_classes_are_left_out(drawn):
    images, labels = drawn
    few = np.where(np.arange(120) < 3, 9, labels)
    assert len(class_covariances(images, few).variance) == 3
    assert class_covariances(images, np.arange(120) // 3) is None


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_spectrum_of_classes_has_no_class_means(drawn, is_exact):
    images, labels = drawn
    far = images + 100 * labels[:, None, None]
    near, same = (spectrum(some, labels, is_exact=is_exact) for some in (images, far))
    np.testing.assert_allclose(near.all, same.all, rtol=1e-6)
    assert spectrum(far, is_exact=is_exact).all[0] > 100 * same.all[0]


def test_the_interval_of_a_spectrum_holds_the_truth():
    """Eigenvalues 1 and 4, whose loss is known, of 1200 images."""
    draw = np.random.default_rng(8)
    deviations = np.array([1.0, 2.0])
    found = []
    for _ in range(20):
        images = draw.normal(size=(1200, 1, 2)) * deviations
        of = spectrum(images, is_exact=True).estimate(velocity_variance)
        found.append(of.low <= velocity_variance(deviations**2) <= of.high)
    assert np.mean(found) >= 0.8


def test_few_images_lower_the_loss_and_that_is_taken_out():
    draw = np.random.default_rng(9)
    found = [spectrum(draw.normal(size=(160, 5, 8)), is_exact=True) for _ in range(5)]
    naive = np.mean([velocity_variance(of.all) for of in found])
    corrected = np.mean([of.estimate(velocity_variance).value for of in found])
    # With images 4 times the numbers, mean roots of eigenvalues lack about 1 / 32.
    assert naive == pytest.approx(np.pi / 2 * (1 - 1 / 32), rel=0.01)
    assert corrected == pytest.approx(np.pi / 2, rel=0.01)


def test_full_covariances_take_images_and_few_numbers(drawn, monkeypatch):
    images, _ = drawn
    assert module.can_be_exact(images, 24)
    assert not module.can_be_exact(images, 23)
    monkeypatch.setattr(module, "MAX_EXACT", 11)
    assert not module.can_be_exact(images, 24)


def test_effective_rank_counts_equal_eigenvalues():
    assert participation_ratio(np.array([2.0, 2, 2, 0])) == pytest.approx(3)


def test_latents_that_do_not_vary_have_eigenvalues_of_zero():
    still = np.zeros((10, POSITIONS, CHANNELS))
    assert not kronecker_eigenvalues(still, 9).any()
    assert not exact_eigenvalues(still, 9).any()


@pytest.mark.parametrize("times", [None, (0.0, 1.0)])
def test_the_bound_of_gaussian_latents_is_that_of_their_covariance(times, monkeypatch):
    draw = np.random.default_rng(0)
    labels = np.arange(600) % 6
    spread = np.linspace(0.5, 2, 24)
    tokens = (draw.normal(size=(600, 24)) * spread + labels[:, None]).reshape(-1, 3, 8)
    bound = gaussian_flow_loss(tokens, labels, times=times)
    assert bound == pytest.approx(velocity_variance(spread**2, times=times), rel=0.01)
    # Classes that are not known are spread too.
    assert gaussian_flow_loss(tokens, 0 * labels, times=times) > bound
    order = draw.permutation(600)
    mixed = gaussian_flow_loss(tokens[order], labels[order], times=times)
    assert mixed == pytest.approx(bound, rel=0.003)
    # Of four images for each number the covariance has less, if not corrected.
    low, few = [], []
    for rows in np.split(np.arange(576), 6):
        plain = tokens[rows] - labels[rows, None, None]
        plain = plain - plain.mean(axis=0)
        low.append(velocity_variance(exact_eigenvalues(plain, 95), times=times))
        few.append(gaussian_flow_loss(tokens[rows], labels[rows], times=times))
    assert np.mean(low) < 0.985 * bound
    assert np.mean(few) == pytest.approx(bound, rel=0.01)
    monkeypatch.setattr(module, "MAX_EXACT", 0)
    product = gaussian_flow_loss(tokens, labels, times=times)
    assert product == pytest.approx(bound, rel=0.1)
    assert product != bound
