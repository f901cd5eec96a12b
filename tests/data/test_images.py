import io
import pickle

import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data import images
from vtp_eqx.data.images import decode_image, read_file, UnreadableImageError


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_lossless_file_comes_back_as_it_was(photograph):
    got = decode_image(encoded(photograph), "a.png")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.array(photograph))


def test_real_photographs_are_read(photographs):
    for path in photographs:
        image = decode_image(path.read_bytes(), path.name)
        assert image.shape == (427, 640, 3)


@pytest.mark.parametrize(
    ("mode", "kind", "distance"),
    [
        ("RGB", "JPEG", 6),
        ("CMYK", "JPEG", 6),
        ("RGB", "WEBP", 8),
        ("P", "GIF", 12),
        ("P", "PNG", 12),
        ("RGBA", "PNG", 0),
        ("RGB", "TIFF", 0),
        ("RGB", "PPM", 0),
    ],
)
def test_every_kind_of_color_shows_the_same_picture(mode, kind, distance, photograph):
    picture = photograph.quantize() if mode == "P" else photograph.convert(mode)
    content = encoded(picture, kind)
    got = decode_image(content, "a").astype(float)
    assert got.shape == (90, 120, 3)
    assert np.abs(got - np.array(photograph)).mean() <= distance


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_is_gray_in_three_channels(mode, photograph):
    gray = photograph.convert("L").convert(mode)
    got = decode_image(encoded(gray), "a")
    expected = np.array(gray.convert("L"))
    np.testing.assert_array_equal(got, np.stack([expected] * 3, axis=-1))


def test_sixteen_bits_become_eight_by_hand():
    # 257 = 65535 / 255: 0 -> 0, 257 -> 1, 385 -> 1, 386 -> 2, 65535 -> 255.
    levels = np.array([[0, 257, 385, 386, 65535]], np.uint16)
    got = decode_image(encoded(Image.fromarray(levels)), "a")
    assert got[0, :, 0].tolist() == [0, 1, 1, 2, 255]
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def test_transparency_lies_on_white_by_hand():
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    got = decode_image(encoded(Image.fromarray(clear)), "a")
    # 51 / 255 = 0.2 of black on white: 0.8 * 255 = 204.
    assert got[0].tolist() == [[255, 255, 255], [10, 20, 30], [204, 204, 204]]


def test_a_transparent_color_of_a_palette_lies_on_white():
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([9, 9, 9, 200, 100, 50])
    got = decode_image(encoded(picture, transparency=0), "a")
    assert got[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_exif_turns_the_image_upright(photograph):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to see it upright
    lying = photograph.transpose(Image.Transpose.ROTATE_90)
    got = decode_image(encoded(lying, exif=exif.tobytes()), "a")
    np.testing.assert_array_equal(got, np.array(photograph))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_pixels(photograph):
    content = encoded(photograph, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff")
    assert decode_image(content, "a").shape == (90, 120, 3)


def damaged_files(photograph):
    jpeg, png = encoded(photograph, "JPEG"), encoded(photograph)
    return {
        "empty.jpg": b"",
        "text.jpg": b"<html>not found</html>",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "head.png": png[:40],
        "flipped.png": png[:60] + bytes(40) + png[100:],
        "noise.webp": b"RIFF\xff\xff\0\0WEBPVP8 " + bytes(range(200)),
        "floats.tiff": encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"),
        "huge.ppm": b"P6 20000 20000 255\n",
    }


def test_what_is_no_whole_image_is_named(photograph):
    for name, content in damaged_files(photograph).items():
        with pytest.raises(UnreadableImageError, match=f"got {name}") as caught:
            decode_image(content, name)
        assert caught.value.name == name
        assert caught.value.reason


def test_every_beginning_of_a_file_is_an_image_or_unreadable(photograph):
    content = encoded(photograph.resize((24, 18)), "JPEG")
    for length in range(0, len(content) - 2, 7):
        with pytest.raises(UnreadableImageError):
            decode_image(content[:length], "a")


def test_a_file_that_is_gone_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_file(tmp_path / "gone.jpg", "gone.jpg")


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.jpg", "torn")))
    assert (error.name, error.reason) == ("a.jpg", "torn")


@pytest.fixture(params=["Pillow", "simplejpeg"])
def decoder(request, monkeypatch):
    """Each of the decoders of JPEGs in turn."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    return request.param


@pytest.mark.parametrize(
    ("least", "shapes"),
    [
        (90, {(90, 120)}),
        (500, {(90, 120)}),
        (40, {(45, 60)}),
        (10, {(12, 15), (23, 30)}),
    ],
)
def test_a_jpeg_may_come_smaller_but_not_below_what_is_asked(
    photograph, decoder, least, shapes
):
    content = encoded(photograph, "JPEG", quality=95)
    got = decode_image(content, "a", least=least)
    height, width, _ = got.shape
    assert min(height, width) >= min(least, 90)
    assert (height, width) in shapes or decoder == "simplejpeg"
    shrunk = np.array(photograph.resize((width, height), Image.Resampling.BOX))
    assert np.abs(got.astype(float) - shrunk).mean() <= 6


def test_a_smaller_jpeg_is_upright_too(photograph, decoder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    content = encoded(photograph, "JPEG", exif=exif)
    got = decode_image(content, "a", least=40)
    expected = np.rot90(np.array(photograph.resize((60, 45), Image.Resampling.BOX)), -1)
    assert np.abs(got.astype(float) - expected).mean() <= 6


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_smaller_jpeg_has_three_channels(photograph, decoder, mode):
    picture = photograph.convert(mode)
    got = decode_image(encoded(picture, "JPEG"), "a", least=90).astype(float)
    assert np.abs(got - np.array(picture.convert("RGB"))).mean() <= 6


def test_what_is_cut_is_unreadable_by_either_decoder(photograph, decoder):
    content = encoded(photograph, "JPEG")
    for length in (100, len(content) // 2, len(content) - 40):
        with pytest.raises(UnreadableImageError, match=r"a\.jpg"):
            decode_image(content[:length], "a.jpg", least=32)


def test_images_below_a_side_are_unreadable(photograph):
    content = encoded(photograph)
    assert decode_image(content, "a", min_side=90).shape == (90, 120, 3)
    with pytest.raises(
        UnreadableImageError, match="120 x 90 pixels, and 91 are wanted"
    ):
        decode_image(content, "a", min_side=91)


def test_a_name_with_any_character_leaves_a_sentence_one_line():
    error = UnreadableImageError("a\nb\udcff.png", "cut\tshort")
    assert "got a\\nb\\udcff.png (cut\\tshort): replace" in str(error)
    assert (error.name, error.reason) == ("a\nb\udcff.png", "cut\tshort")
