import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.reconstruction import psnr, reconstruction_scores, ssim


def pair(key, size=16):
    return jr.uniform(key, (2, size, size, 3))


def test_a_constant_error_by_hand():
    # An error of 0.1 everywhere: -10 log10(0.01) = 20 dB.
    image = jnp.full((12, 12, 3), 0.5)
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)


def test_constant_images_have_only_luminance_by_hand():
    # (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4), with no variance in either.
    first, second = jnp.full((12, 13, 3), 0.2), jnp.full((12, 13, 3), 0.6)
    assert ssim(first, second) == pytest.approx(0.2401 / 0.4001, abs=1e-4)


def test_ssim_agrees_with_filtering_the_whole_image(getkey):
    image, target = np.asarray(pair(getkey(), 20), dtype=np.float64)
    weights = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weights /= weights.sum()

    def windowed(x):
        x = correlate1d(correlate1d(x, weights, axis=0), weights, axis=1)
        return x[5:-5, 5:-5]

    mx, my = windowed(image), windowed(target)
    vx, vy = windowed(image**2) - mx**2, windowed(target**2) - my**2
    cov = windowed(image * target) - mx * my
    top = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    expected = (top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()
    got = ssim(jnp.float32(image), jnp.float32(target))
    assert got == pytest.approx(expected, abs=1e-4)


def test_an_image_is_like_itself(getkey):
    image = pair(getkey())[0]
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-5)
    assert psnr(image, image) == jnp.inf


def test_both_are_symmetric_and_fall_with_noise(getkey):
    image, noise = pair(getkey())
    small, large = image + 0.05 * noise, image + 0.2 * noise
    for score in (psnr, ssim):
        assert score(image, small) == pytest.approx(
            float(score(small, image)), rel=1e-4
        )
        assert score(image, small) > score(image, large)


def test_scores_are_per_image_of_what_is_saved(getkey):
    images = as_bytes(pair(getkey()))
    # 25 levels everywhere: 20 log10(255 / 25) = 20.172 dB.
    saved = np.where(images < 128, images + 25, images - 25)
    scores = reconstruction_scores(images, np.stack([saved[0], images[1]]))
    assert scores["psnr"].shape == scores["ssim"].shape == (2,)
    assert scores["psnr"][0] == pytest.approx(20.172, abs=1e-3)
    assert scores["psnr"][1] == jnp.inf
    assert scores["ssim"][0] < scores["ssim"][1] == pytest.approx(1, abs=1e-5)


def test_an_image_smaller_than_the_window_is_an_error():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(jnp.zeros((8, 16, 3)), jnp.zeros((8, 16, 3)))
