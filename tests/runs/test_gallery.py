import itertools

import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.runs import gallery
from vtp_eqx.runs.gallery import (
    error_maps,
    gallery_figure,
    reconstruct_some,
    Reconstructed,
    save_gallery,
)


def flat(level, *, size=8, num=2):
    return np.full((num, size, size, 3), level, np.uint8)


def test_an_error_is_a_mean_over_channels_and_the_same_both_ways():
    pair = Reconstructed(flat(10), flat(10))
    pair.image[0, 2, 3] = (13, 10, 4)
    errors = error_maps(pair)
    assert errors[0, 2, 3] == 3.0
    assert errors.sum() == 3.0


def test_equal_errors_have_equal_colors_in_every_column(tmp_path):
    path = tmp_path / "gallery.png"
    # Of 10, 20, 20 levels and of two image sizes.
    save_gallery({
        "small error": Reconstructed(flat(100), flat(110)),
        "darker": Reconstructed(flat(100), flat(80)),
        "brighter": Reconstructed(flat(100, size=16), flat(120, size=16)),
    }, path)  # fmt: skip
    with Image.open(path) as opened:
        picture = np.asarray(opened.convert("RGB"))

    def color(column, row):
        """Of the middle of a cell; rows are counted from the bottom."""
        middle = lambda at: at * (gallery.CELL + gallery.GAP) + gallery.CELL / 2
        x, y = ((middle(at) + gallery.GAP) * gallery.DPI for at in (column, row))
        return tuple(picture[len(picture) - 1 - round(y), round(x)].tolist())

    for row in (0, 1):
        levels = [color(column, row) for column in (0, 1, 3, 5)]
        assert levels == [(level,) * 3 for level in (100, 110, 80, 120)]
        assert color(4, row) == color(6, row) != color(2, row)
        assert sum(color(4, row)) > sum(color(2, row))


def test_no_words_overlap_or_leave_the_picture():
    pair = Reconstructed(flat(1), flat(2))
    names = (
        "VTP from principal components, rotated, 64 channels, seed 0",
        "/data/runs/of/last/week/without/any/space/tokenizer",
        "AE",
        "another",
    )
    figure = gallery_figure(dict.fromkeys(names, pair))
    figure.set_dpi(gallery.DPI)
    bar = figure.axes[-1]
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [axis.get_window_extent() for axis in figure.axes]
    boxes.append(bar.yaxis.get_tightbbox())
    whole = figure.bbox
    for box in boxes:
        assert (box.xmin, box.ymin) >= (whole.xmin, whole.ymin)
        assert box.xmax <= whole.xmax
        assert box.ymax <= whole.ymax
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    words = [text.get_text() for text in figure.texts]
    assert words.count("error") == words.count("48.1 dB") == len(names)


def test_images_are_spread_over_the_source_at_the_size_of_the_tokenizer(
    tokenizer, images
):
    pair = reconstruct_some(tokenizer, images, 4)
    rows = images.arrays["image"][[0, 5, 11, 16]]
    np.testing.assert_array_equal(pair.original, rows)
    np.testing.assert_array_equal(pair.image, reconstruct_images(tokenizer, rows))
    large = ArraySource({"image": flat(7, size=40)})
    assert reconstruct_some(tokenizer, large, 2).original.shape == (2, 16, 16, 3)


def test_an_image_that_cannot_be_read_is_named(tokenizer, tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^`source` must have .*broken\.png"):
        reconstruct_some(tokenizer, FolderSource(tmp_path), 1)
