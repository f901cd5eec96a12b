from hypothesis import given, strategies as st
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.crops import (
    CenterCrop,
    RandomCrop,
    Resize,
    ResizeCenterCrop,
    SquareCrop,
)
from vtp_eqx.data.images import decode_image


CROPS = [CenterCrop(32), Resize(32), ResizeCenterCrop(36, 32), SquareCrop(32)]
sides = st.integers(1, 150)


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("crop", CROPS, ids=repr)
@given(height=sides, width=sides)
def test_every_image_becomes_a_square_of_the_size(crop, height, width):
    square = crop(noise(height, width))
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8


@pytest.mark.parametrize("crop", CROPS, ids=repr)
@given(height=sides, width=sides)
def test_one_color_stays_that_color(crop, height, width):
    square = crop(np.full((height, width, 3), [3, 128, 250], np.uint8))
    assert (square == [3, 128, 250]).all()


def test_a_square_of_the_size_passes_unchanged():
    image = noise(32, 32)
    for crop in (CenterCrop(32), Resize(32), ResizeCenterCrop(32, 32), SquareCrop(32)):
        np.testing.assert_array_equal(crop(image), image)


def test_the_center_crop_halves_by_boxes_by_hand():
    # 8 x 8 to 2 x 2: two halvings, each pixel the mean of its 2 x 2 block.
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4], image[:4, 4:], image[4:, :4] = 40, 80, 120
    image[0, 0] = 200  # (200 + 3 * 40) / 4 = 80, then (80 + 3 * 40) / 4 = 50
    assert CenterCrop(2)(image)[..., 0].tolist() == [[50, 80], [120, 0]]


def test_the_center_crop_cuts_the_middle_by_hand():
    # Short side as it should be already: columns 2 to 5 of 9, since (9 - 4) // 2 = 2.
    image = np.repeat(np.arange(9, dtype=np.uint8)[None, :, None] * 20, 4, axis=0)
    image = np.repeat(image, 3, axis=2)
    assert CenterCrop(4)(image)[0, :, 0].tolist() == [40, 60, 80, 100]


def test_the_short_side_crop_cuts_the_middle_by_hand():
    # (4 - 2) / 2 = 1 row; (9 - 2) / 2 = 3.5, which rounds to the even 4.
    image = np.arange(36, dtype=np.uint8).reshape(4, 9, 1).repeat(3, axis=2)
    cut = ResizeCenterCrop(4, 2)(image)[..., 0]
    assert cut.tolist() == [[9 + 4, 9 + 5], [18 + 4, 18 + 5]]


def test_the_center_crop_of_a_photograph_is_its_middle_seen_smaller(photographs):
    for path in photographs:
        image = decode_image(path.read_bytes(), path.name)
        square = CenterCrop(128)(image).astype(float)
        # 640 x 427 is halved once, to 320 x 213.
        middle = Image.fromarray(image[:, 106:533]).resize((128, 128))
        assert np.abs(square - np.array(middle)).mean() < 4
        assert np.abs(square[:, ::-1] - np.array(middle)).mean() > 15


def test_a_squash_shows_the_whole_width():
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :8] = 255
    assert (Resize(32)(image)[:, :3] > 200).all()
    assert (CenterCrop(32)(image) == 0).all()


@given(seed=st.integers(0, 2**31 - 1), height=sides, width=sides)
def test_a_random_crop_is_a_function_of_its_generator(seed, height, width):
    image, crop = noise(height, width), RandomCrop(16)
    first, again = (crop(image, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == (16, 16, 3)
    np.testing.assert_array_equal(first, again)


def test_random_crops_cover_the_areas_they_should():
    crop = RandomCrop(8)
    rng = np.random.default_rng(0)
    boxes = np.array([crop._box(400, 400, rng)[2:] for _ in range(2000)])
    area = boxes.prod(axis=1) / 400**2
    shape = boxes[:, 0] / boxes[:, 1]
    assert 0.079 < area.min() < 0.1
    assert 0.9 < area.max() <= 1
    assert 0.74 < shape.min() < 0.76
    assert 1.32 < shape.max() < 1.35
    # Half the boxes are mirrored.
    ramp = np.arange(64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    rises = [(c := crop(ramp, rng))[0, 0, 0] < c[0, -1, 0] for _ in range(400)]
    assert 0.4 < np.mean(rises) < 0.6


def test_shapes_no_crop_can_take_are_refused():
    with pytest.raises(ValueError, match="too long"):
        CenterCrop(256)(noise(1, 3000))
    with pytest.raises(ValueError, match="at most `short`"):
        ResizeCenterCrop(200, 224)


@pytest.mark.parametrize(("place", "left"), [(0.0, 0), (0.5, 16), (0.99999, 32)])
def test_a_fit_lies_on_the_long_side_where_it_is_told(place, left):
    wide = noise(32, 64)
    tall = wide.transpose(1, 0, 2)
    square = SquareCrop(32)(wide, place)
    expected = wide[:, left : left + 32].astype(int)
    assert np.abs(square - expected).max() <= 1
    np.testing.assert_array_equal(
        SquareCrop(32)(tall, place), square.transpose(1, 0, 2)
    )
