"""Views of one image, drawn on the device from a key.

Images come in and views go out as float32 `[height, width, 3]` in [0, 1]. In between,
operations act on planes `[3, height, width]`: a CPU vectorizes over the width and not
over three channels. Batch with `jax.vmap`. Under it all branches of a choice are
computed, so that choices are made between numbers and not between operations.
Operations take uniform `draws` in [0, 1) and not keys: the draws of all views come from
one call, because each call of the generator costs half a second of compilation.

The operations are those of DINOv2 and torchvision, except that values are not rounded
to 8 bits between them: the distributions agree, not the last bit of an image.
"""

import functools
import itertools
import math

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
import numpy as np

from vtp_eqx.config import ViewsConfig


Image = Float[Array, "height width 3"]
Planes = Float[Array, "3 height width"]
Scalar = Float[Array, ""]
Range = tuple[float, float]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow
_TRIES = 10
_CROP_DRAWS = 2 * _TRIES + 2  # 22, as annotated below
_COLOR_DRAWS = 5 + 6  # of jitter, of the choices
_BRIGHTNESS, _CONTRAST, _HUE = 0, 1, 3  # places in the order of `jitter`


class Views(eqx.Module):
    """What student and teacher of self-distillation look at, in [0, 1]."""

    global_crops: Float[Array, "*batch 2 large large 3"]
    local_crops: Float[Array, "*batch num_local small small 3"]


def distillation_views(
    image: Image, config: ViewsConfig, *, key: PRNGKeyArray
) -> Views:
    """Two global and `config.num_local` local crops, recolored and blurred.

    Oquab et al. 2023, https://arxiv.org/abs/2304.07193; the rates are in `config`.
    """
    planes = jnp.moveaxis(image, -1, 0)
    draws = jr.uniform(key, (2 + config.num_local, _CROP_DRAWS + _COLOR_DRAWS))
    # The two global crops differ in numbers alone: they share one computation.
    blur_rates = jnp.array(config.blur_rates[:2], jnp.float32)
    solarize_rates = jnp.array((0.0, config.solarize_rate), jnp.float32)
    view = functools.partial(
        _view, planes, config, config.global_size, config.global_scale
    )
    global_crops = jax.vmap(view)((blur_rates, solarize_rates), draws[:2])
    rates = jnp.float32(config.blur_rates[2]), jnp.float32(0)
    view = functools.partial(
        _view, planes, config, config.local_size, config.local_scale, rates
    )
    local_crops = jax.vmap(view)(draws[2:])
    return Views(jnp.moveaxis(global_crops, 1, -1), jnp.moveaxis(local_crops, 1, -1))


def contrast_view(
    image: Image, config: ViewsConfig, size: int, *, key: PRNGKeyArray
) -> Float[Array, "{size} {size} 3"]:
    """One crop that keeps nearly everything: captions name places and colors."""
    planes = jnp.moveaxis(image, -1, 0)
    draws = jr.uniform(key, (_CROP_DRAWS,))
    view = random_resized_crop(
        planes, size, config.contrast_scale, config.aspect, draws
    )
    return jnp.moveaxis(view, 0, -1)


def random_resized_crop(
    planes: Planes, size: int, scale: Range, aspect: Range, draws: Float[Array, " 22"]
) -> Float[Array, "3 {size} {size}"]:
    """A random box of the image, resized to a square by antialiased bicubic filtering.

    The box has a uniform share `scale` of the area, a log-uniform ratio `aspect` of
    width to height, and whole pixels; what is outside of it is not seen. Equals crop,
    then resize of Pillow on float images.
    """
    _, height, width = planes.shape
    top, left, box_height, box_width = _random_box(height, width, scale, aspect, draws)
    rows = resize_weights(top, box_height, height, size)
    columns = resize_weights(left, box_width, width, size)
    # As two products with small matrices, shapes do not depend on the box.
    resized = jnp.einsum("oh,chw,pw->cop", rows, planes, columns)
    return jnp.clip(resized, 0.0, 1.0)


def resize_weights(
    start: Scalar, length: Scalar, in_size: int, out_size: int
) -> Float[Array, "{out_size} {in_size}"]:
    """Weights that resize the pixels in `[start, start + length)` of a line.

    Cubic convolution with a = -0.5, widened where the line shrinks; rows sum to one.
    Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711.
    """
    step = length / out_size
    centers = start + (jnp.arange(out_size) + 0.5) * step
    pixels = jnp.arange(in_size) + 0.5
    x = jnp.abs(pixels - centers[:, None]) / jnp.maximum(step, 1.0)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))
    weights = jnp.where((pixels > start) & (pixels < start + length), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def flip(planes: Planes) -> Planes:
    """Left and right exchanged."""
    return planes[:, :, ::-1]


def grayscale(planes: Planes) -> Float[Array, "1 height width"]:
    """The luma of each pixel."""
    red, green, blue = planes
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[None]


def solarize(planes: Planes) -> Planes:
    """Levels of 128 and more, of 255, inverted."""
    return jnp.where(planes >= 128 / 255, 1 - planes, planes)


def shift_hue(planes: Planes, turns: Scalar) -> Planes:
    """Hue turned by `turns`; value and saturation of HSV are kept."""
    red, green, blue = planes
    value, least = planes.max(axis=0), planes.min(axis=0)
    chroma = value - least
    inverse = 1 / jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) * inverse,
        jnp.where(
            value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse
        ),
    )
    phase = sixths + 6 * turns + jnp.array([5.0, 3.0, 1.0])[:, None, None]
    phase = phase - 6 * jnp.floor(phase / 6)
    return value - chroma * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)


def jitter(planes: Planes, config: ViewsConfig, draws: Float[Array, " 5"]) -> Planes:
    """Brightness, contrast, saturation and hue changed at random, in random order."""
    widths = jnp.array(
        [config.brightness, config.contrast, config.saturation, config.hue]
    )
    shifts = widths * (2 * draws[:4] - 1)
    orders = jnp.array(list(itertools.permutations(range(4))))
    order = orders[jnp.floor(draws[4] * len(orders)).astype(jnp.int32)]

    # Hue is the dearest: it is computed once, between the others that come before it
    # and those that come after. What is not due has the factor 1, which does nothing.
    hue_rank, ranks = jnp.argmax(order == _HUE), jnp.arange(4)
    early = jnp.where(ranks < hue_rank, 1 + shifts[order], 1)
    late = jnp.where(ranks > hue_rank, 1 + shifts[order], 1)

    # A loop, because unrolled XLA computes all the steps before a mean twice.
    def step(planes, due):
        return _blend(planes, *due), None

    planes, _ = lax.scan(step, planes, (order[:3], early[:3]))
    if config.hue > 0:
        planes = shift_hue(planes, shifts[_HUE])
    planes, _ = lax.scan(step, planes, (order[1:], late[1:]))
    return planes


def blur(planes: Planes, sigma: Scalar, radius: int) -> Planes:
    """Gaussian blur over `2 radius + 1` pixels, reflected at the borders."""
    _, height, width = planes.shape
    offsets = jnp.arange(-radius, radius + 1)
    kernel = jax.nn.softmax(-0.5 * (offsets / sigma) ** 2)
    rows, columns = _blur_matrix(kernel, height), _blur_matrix(kernel, width)
    return jnp.einsum("oh,chw,pw->cop", rows, planes, columns)


def _view(
    planes: Planes,
    config: ViewsConfig,
    size: int,
    scale: Range,
    rates: tuple[Scalar, Scalar],
    draws: Float[Array, " draws"],
) -> Float[Array, "3 {size} {size}"]:
    """One crop; `rates` are those of blurring and solarizing."""
    crop_draws, color_draws = draws[:_CROP_DRAWS], draws[_CROP_DRAWS:]
    *chances, width = color_draws[5:]
    config_rates = (config.flip_rate, config.jitter_rate, config.gray_rate)
    flipped, jittered, gray, blurred, solarized = (
        chance < rate
        for chance, rate in zip(chances, config_rates + rates, strict=True)
    )
    low, high = config.blur_sigma
    sigma = low + (high - low) * width

    view = random_resized_crop(planes, size, scale, config.aspect, crop_draws)
    # What never happens is not compiled: on a CPU that takes seconds.
    if config.flip_rate > 0:
        view = jnp.where(flipped, flip(view), view)
    if config.jitter_rate > 0:
        view = jnp.where(jittered, jitter(view, config, color_draws[:5]), view)
    if config.gray_rate > 0:
        view = jnp.where(gray, grayscale(view), view)
    view = jnp.where(blurred, blur(view, sigma, config.blur_radius), view)
    if config.solarize_rate > 0:
        view = jnp.where(solarized, solarize(view), view)
    return jnp.clip(view, 0.0, 1.0)  # sums of weights may exceed 1 in the last bit


def _random_box(
    height: int, width: int, scale: Range, aspect: Range, draws: Array
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Top, left, height and width in whole pixels: the first of ten tries that fits."""
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:_TRIES])
    low, high = (math.log(ratio) for ratio in aspect)
    ratios = jnp.exp(low + (high - low) * draws[_TRIES:-2])
    widths, heights = jnp.round(jnp.sqrt(areas * jnp.array([ratios, 1 / ratios])))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    # None fits: the largest centered box whose ratio is allowed.
    most_width = min(width, round(height * aspect[1]))
    most_height = min(height, round(width / aspect[0]))
    box_height = jnp.where(fits[first], heights[first], most_height)
    box_width = jnp.where(fits[first], widths[first], most_width)
    down, right = draws[-2:]
    top = jnp.floor(down * (height - box_height + 1))
    left = jnp.floor(right * (width - box_width + 1))
    top = jnp.where(fits[first], top, (height - most_height) // 2)
    left = jnp.where(fits[first], left, (width - most_width) // 2)
    return top, left, box_height, box_width


def _blend(planes: Planes, operation: Array, factor: Scalar) -> Planes:
    """Moves `planes` away from what the operation would leave at factor 0."""
    luma = grayscale(planes)
    origin = jnp.where(operation == _CONTRAST, luma.mean(), luma)
    origin = jnp.where(operation == _BRIGHTNESS, 0.0, origin)
    return jnp.clip(origin + factor * (planes - origin), 0.0, 1.0)


def _blur_matrix(
    kernel: Float[Array, " taps"], size: int
) -> Float[Array, "{size} {size}"]:
    radius = kernel.shape[0] // 2
    sources = np.pad(np.arange(size), radius, mode="reflect")
    taps = np.lib.stride_tricks.sliding_window_view(sources, kernel.shape[0])
    return jnp.tensordot(kernel, jax.nn.one_hot(taps, size), axes=(0, 1))
