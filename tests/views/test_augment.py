import colorsys
import dataclasses
import itertools

import equinox as eqx
from hypothesis import given, strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import ViewsConfig
from vtp_eqx.views.augment import (
    blur,
    contrast_view,
    distillation_views,
    flip,
    grayscale,
    jitter,
    random_resized_crop,
    resize_weights,
    shift_hue,
    solarize,
)


SEEDS = st.integers(0, 2**31 - 1)
CONFIG = ViewsConfig(global_size=16, local_size=8, num_local=3)
STILL = ViewsConfig(
    global_size=16,
    local_size=16,
    num_local=3,
    global_scale=(1.0, 1.0),
    local_scale=(1.0, 1.0),
    aspect=(1.0, 1.0),
    flip_rate=0.0,
    jitter_rate=0.0,
    gray_rate=0.0,
    blur_rates=(0.0, 0.0, 0.0),
    solarize_rate=0.0,
)
traces = []


@eqx.filter_jit
def views_of(image, config, *, key):
    traces.append(config)
    return distillation_views(image, config, key=key)


crop = eqx.filter_jit(random_resized_crop)
jittered = eqx.filter_jit(jitter)
weights_of = eqx.filter_jit(resize_weights)
blurred = eqx.filter_jit(blur)


def _image(seed, size=16):
    return jr.uniform(jr.key(seed), (size, size, 3))


def _planes(seed, size=16):
    return jnp.moveaxis(_image(seed, size), -1, 0)


def _box(top, left, height, width, draws):
    """Draws that lead to the crop of these pixels of a 16 by 16 image."""
    ratio = width / height
    draws = (
        draws.at[:20]
        .set(0.5)
        .at[20:]
        .set(jnp.array([(top + 0.5) / (17 - height), (left + 0.5) / (17 - width)]))
    )
    return draws, (height * width / 256,) * 2, (ratio, ratio)


@given(seed=SEEDS)
def test_views_are_images_of_the_asked_sizes(seed):
    views = views_of(_image(seed), CONFIG, key=jr.key(seed))
    assert views.global_crops.shape == (2, 16, 16, 3)
    assert views.local_crops.shape == (3, 8, 8, 3)
    for leaf in jax.tree.leaves(views):
        assert leaf.dtype == jnp.float32
        assert 0 <= leaf.min() <= leaf.max() <= 1


@given(seed=SEEDS)
def test_crops_of_full_scale_without_colors_are_the_image(seed):
    image = _image(seed)
    views = views_of(image, STILL, key=jr.key(seed))
    for crops in (views.global_crops, views.local_crops):
        np.testing.assert_allclose(crops, image[None].repeat(len(crops), 0), atol=1e-6)


def test_views_are_a_function_of_the_key(getkey):
    image, key = _image(0), getkey()
    one, same = (views_of(image, CONFIG, key=key) for _ in range(2))
    other = views_of(image, CONFIG, key=getkey())
    assert eqx.tree_equal(one, same)
    assert not np.allclose(one.global_crops, other.global_crops)
    assert not np.allclose(one.global_crops[0], one.global_crops[1])
    # Boxes and orders differ, the program does not.
    assert traces.count(CONFIG) == 1


def test_the_contrastive_view_keeps_nearly_everything(getkey):
    ramp = jnp.linspace(0, 1, 32)[None, :, None].repeat(32, 0).repeat(3, 2)
    view = eqx.filter_jit(contrast_view)(ramp, ViewsConfig(), 16, key=getkey())
    assert view.shape == (16, 16, 3)
    assert view[:, 0].max() < 0.25
    assert view[:, -1].min() > 0.75


@pytest.mark.parametrize("box", [(2, 5, 10, 8), (0, 13, 3, 3)])
@pytest.mark.parametrize("size", [4, 16])
def test_a_crop_equals_crop_and_resize_of_pillow(box, size):
    top, left, height, width = box
    planes = _planes(1)
    draws, scale, aspect = _box(*box, jnp.zeros(22))
    for plane, ours in zip(
        np.asarray(planes), crop(planes, size, scale, aspect, draws), strict=True
    ):
        # A copy, because the box of a lazy crop would let in pixels from outside.
        part = Image.fromarray(plane[top : top + height, left : left + width].copy())
        theirs = part.resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours, np.clip(theirs, 0, 1), atol=1e-5)


@given(seed=SEEDS)
def test_boxes_have_the_asked_share_of_the_area_and_lie_inside(seed):
    # Of two ramps, a crop shows the borders of its box.
    ramp = (jnp.arange(64) + 0.5) / 64
    planes = jnp.stack([jnp.tile(ramp, (64, 1)), jnp.tile(ramp[:, None], (1, 64))] * 2)
    draws = jr.uniform(jr.key(seed), (22,))
    view = crop(planes[:3], 64, (0.3, 0.5), (0.75, 4 / 3), draws)
    width = (view[0, 32, 48] - view[0, 32, 16]) * 2
    height = (view[1, 48, 32] - view[1, 16, 32]) * 2
    assert 0.27 < width * height < 0.53
    assert 0.7 < width / height < 1.43


def test_a_box_that_never_fits_falls_back_to_the_center():
    # Full area and ratio 4 need a width of twice the image.
    planes = _planes(2)
    view = crop(planes, 16, (1.0, 1.0), (4.0, 4.0), jnp.full(22, 0.3))
    draws, scale, aspect = _box(6, 0, 4, 16, jnp.zeros(22))
    np.testing.assert_allclose(view, crop(planes, 16, scale, aspect, draws), atol=1e-6)


@given(
    start=st.integers(0, 8),
    length=st.integers(1, 8),
    size=st.sampled_from([3, 16]),
)
def test_weights_of_a_resize_sum_to_one_and_stay_in_the_box(start, length, size):
    box = jnp.float32(start), jnp.float32(length)
    weights = np.asarray(weights_of(*box, 16, size))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert (weights[:, :start] == 0).all()
    assert (weights[:, start + length :] == 0).all()


@given(seed=SEEDS)
def test_flip_and_solarize_and_hue_are_undone(seed):
    planes = _planes(seed)
    np.testing.assert_array_equal(flip(flip(planes)), planes)
    bright = solarize(planes) != planes
    np.testing.assert_array_equal(bright, planes >= 128 / 255)
    turns = jr.uniform(jr.key(seed + 1))
    back = shift_hue(shift_hue(planes, turns), -turns)
    np.testing.assert_allclose(back, planes, atol=2e-5)


@pytest.mark.parametrize("turns", [0.0, 0.1, -0.1, 0.5])
def test_hue_turns_as_in_the_standard_library(turns):
    planes = _planes(3, 4).at[:, 0].set(0.5).at[:, 1].set(0.0)
    turned = shift_hue(planes, jnp.float32(turns))
    for y, x in itertools.product(range(4), range(4)):
        hue, saturation, value = colorsys.rgb_to_hsv(*planes[:, y, x].tolist())
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        np.testing.assert_allclose(turned[:, y, x], expected, atol=1e-5)


def test_luma_by_hand():
    color = jnp.array([1.0, 0.5, 0.0])[:, None, None]
    np.testing.assert_allclose(grayscale(color), [[[0.299 + 0.2935]]], rtol=1e-6)


def test_jitter_of_no_strength_changes_nothing(getkey):
    still = ViewsConfig(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    for key in jr.split(getkey(), 3):
        planes = _planes(4)
        np.testing.assert_allclose(
            jittered(planes, still, jr.uniform(key, (5,))), planes, atol=1e-6
        )


@pytest.mark.parametrize("order", [0, 14])
def test_jitter_does_each_operation_once_in_the_drawn_order(order):
    factors, turns = np.array([1.3, 0.7, 1.15]), 0.06
    shifts = np.append((factors - 1) / (0.4, 0.4, 0.2), turns / 0.1)
    draws = jnp.append((shifts + 1) / 2, (order + 0.5) / 24)
    planes = _planes(5)
    expected = np.asarray(planes)
    for operation in list(itertools.permutations(range(4)))[order]:
        luma = np.tensordot((0.299, 0.587, 0.114), expected, 1)
        if operation == 3:
            expected = np.asarray(shift_hue(jnp.asarray(expected), jnp.float32(turns)))
            continue
        origin = (0.0, luma.mean(), luma)[operation]
        expected = origin + factors[operation] * (expected - origin)
        expected = np.clip(expected, 0, 1).astype(np.float32)
    ours = jittered(planes, ViewsConfig(), draws.astype(jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@given(seed=SEEDS)
def test_blur_keeps_flat_images_and_commutes_with_the_flip(seed):
    sigma = jr.uniform(jr.key(seed), minval=0.1, maxval=2.0)
    planes = _planes(seed)
    flat = jnp.full_like(planes, 0.3)
    np.testing.assert_allclose(blurred(flat, sigma, 4), flat, rtol=1e-5)
    np.testing.assert_allclose(
        blurred(flip(planes), sigma, 4), flip(blurred(planes, sigma, 4)), atol=1e-6
    )


def test_blur_of_a_point_is_the_kernel():
    point = jnp.zeros((3, 16, 16)).at[:, 8, 8].set(1.0)
    line = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    line /= line.sum()
    expected = np.pad(np.outer(line, line), ((4, 3), (4, 3)))
    for plane in blurred(point, jnp.float32(1.5), 4):
        np.testing.assert_allclose(plane, expected, atol=1e-6)


def test_rates_are_the_shares_of_changed_views(getkey):
    config = dataclasses.replace(STILL, blur_rates=(0.0, 0.9, 0.5), gray_rate=0.2)
    image = _image(6)
    views = jax.jit(jax.vmap(lambda key: distillation_views(image, config, key=key)))(
        jr.split(getkey(), 400)
    )

    def shares(crops):
        gray = jnp.ptp(crops, axis=-1).max(axis=(-1, -2)) < 1e-5
        sharp = jnp.abs(crops - image).max(axis=(-1, -2, -3)) < 1e-5
        return gray.mean(axis=0), (sharp | gray).mean(axis=0)

    gray, sharp = shares(views.global_crops)
    np.testing.assert_allclose(gray, 0.2, atol=0.06)
    np.testing.assert_allclose(sharp, (1.0, 0.2 + 0.8 * 0.1), atol=0.06)
    gray, sharp = shares(views.local_crops)
    np.testing.assert_allclose(sharp, 0.2 + 0.8 * 0.5, atol=0.08)
