import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.evaluation.batches import as_bytes
from vtp_eqx.evaluation.card import read
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.networks import PerceptualNetwork, scene_features
from vtp_eqx.evaluation.reconstruction import psnr, reconstruction, ssim
from vtp_eqx.models.arrays import latents_hash, weights_hash


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
    unit = lambda pixels: jnp.asarray(pixels, jnp.float32) / 255
    pairs = unit(np.stack([saved[0], images[1]])), unit(images)
    scores = {"psnr": jax.vmap(psnr)(*pairs), "ssim": jax.vmap(ssim)(*pairs)}
    assert scores["psnr"].shape == scores["ssim"].shape == (2,)
    assert scores["psnr"][0] == pytest.approx(20.172, abs=1e-3)
    assert scores["psnr"][1] == jnp.inf
    assert scores["ssim"][0] < scores["ssim"][1] == pytest.approx(1, abs=1e-5)


def test_an_image_smaller_than_the_window_is_an_error():
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(jnp.zeros((8, 16, 3)), jnp.zeros((8, 16, 3)))


def images_of(source, crop=None, **changes):
    return Images(source=source, crop=crop or CenterCrop(32), **changes)


def first_pixel(scale, image, other):
    return scale * jnp.abs(image - other)[0, 0, 0]


def test_reconstructions_are_judged_as_they_would_be_saved(tokenizer, scenes, place):
    network = scene_features()
    distance = jax.tree_util.Partial(first_pixel, jnp.array(2.0))
    perceptual = PerceptualNetwork(distance, "ff")
    numbers = reconstruction(
        tokenizer, images_of(scenes), network, place, perceptual=perceptual
    )
    assert numbers.keys() == {"PSNR", "SSIM", "LPIPS", "rFD-scenes"}
    real = np.float32(scenes.arrays["image"]) / 255
    again = jax.jit(jax.vmap(lambda i: tokenizer.decode(tokenizer.encode(i))))(real)
    again = as_bytes(again).astype(np.float64) / 255
    error = ((again - real) ** 2).mean(axis=(1, 2, 3))
    assert numbers["PSNR"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-6)
    pixel = 2 * np.abs(again - real)[:, 0, 0, 0].mean()
    assert numbers["LPIPS"] == pytest.approx(pixel, rel=1e-4)
    seen = jax.jit(jax.vmap(network))
    pair = (np.float32(again), real)
    moments = [Moments.of(np.asarray(seen(x).features)) for x in pair]
    distance = frechet_distance(*moments)
    assert numbers["rFD-scenes"] == pytest.approx(distance, rel=1e-4)
    written, card = read(place.folder / "card_reconstruction.json")
    assert written == numbers
    assert card.protocol.startswith("images clipped and rounded to bytes, perceptual")
    assert card.tokenizer_hash == weights_hash(tokenizer)
    assert card.latents_hash == ""  # it has no statistics, and needs none here
    assert (card.num_samples, card.crop) == (48, "CenterCrop(size=32)")
    assert card.feature_origin == "shipped with vtp_eqx"


def test_rounded_weights_give_close_numbers_and_another_card(tokenizer, scenes, place):
    exact = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(8, 2.0))
    near = exact.at_precision("bfloat16")
    numbers, cards = [], []
    for model in (exact, near):
        images = images_of(scenes)
        numbers.append(reconstruction(model, images, scene_features(), place))
        cards.append(read(place.folder / "card_reconstruction.json")[1])
    assert [card.precision for card in cards] == ["float32", "bfloat16"]
    assert cards[1].tokenizer_hash == weights_hash(near) != cards[0].tokenizer_hash
    assert cards[1].latents_hash == cards[0].latents_hash == latents_hash(exact)
    for name, value in numbers[0].items():
        assert numbers[1][name] == pytest.approx(value, rel=0.02)
        assert numbers[1][name] != value


def test_another_count_than_asked_for_gives_no_number(tokenizer, scenes, place):
    images = images_of(scenes, num_samples=50)
    with pytest.raises(ValueError, match="48 of 50"):
        reconstruction(tokenizer, images, scene_features(), place)
    assert not list(place.folder.glob("card*"))


def test_a_size_the_network_does_not_read_is_refused(tokenizer, scenes, place):
    with pytest.raises(ValueError, match="choose another"):
        reconstruction(
            tokenizer, images_of(scenes, CenterCrop(64)), scene_features(), place
        )
