"""Prepared data sets whose images are not what their features promise."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.mixture import example_name, read_encoded
from vtp_eqx.data.sources import TfdsSource


RED = (200, 30, 40)


def picture(kind, mode, **options):
    """An image of one color, 24 high and 40 wide, in a file of that kind and mode."""
    content, color = io.BytesIO(), Image.new("RGB", (40, 24), RED)
    image = color.quantize(8) if mode == "P" else color.convert(mode)
    image.save(content, kind, **options)
    return content.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # lies on its side
FILES = {
    "inks": picture("JPEG", "CMYK"),
    "transparent": picture("PNG", "RGBA"),
    "palette": picture("PNG", "P"),
    "turned": picture("JPEG", "RGB", exif=TURNED),
    "gray": picture("JPEG", "L"),
    "cut": picture("JPEG", "RGB")[:300],
    "none": b"not an image",
    "plain": picture("PNG", "RGB"),
}
WHOLE = [name for name in FILES if name not in ("cut", "none")]


class Odd(tfds.core.GeneratorBasedBuilder):
    """The files above, in their order."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"image": image, "caption": tfds.features.Text()}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for row, (name, content) in enumerate(FILES.items()):
            yield row, {"image": io.BytesIO(content), "caption": f"a {name} one"}


class Latin(Odd):
    """Texts that are not UTF-8."""

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3))
        text = tfds.features.Text()
        features = {"image": image, "caption": text, "path": text}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _generate_examples(self):
        content = io.BytesIO(FILES["plain"])
        yield 0, {"image": content, "caption": b"a caf\xe9", "path": b"caf\xe9.png"}


class Numbers(Odd):
    """No images at all."""

    def _info(self):
        features = tfds.features.FeaturesDict({"number": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        yield 0, {"number": 3}


def prepared(builder, folder):
    made = builder(data_dir=folder, file_format="array_record")
    made.download_and_prepare()
    return str(made.data_path)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return TfdsSource(prepared(Odd, tmp_path_factory.mktemp("odd")), "train")


@pytest.mark.parametrize("name", WHOLE)
def test_an_image_is_what_a_viewer_shows(source, name):
    example = source[[*FILES].index(name)]
    assert example["caption"] == f"a {name} one"
    assert example["image"].shape == ((40, 24, 3) if name == "turned" else (24, 40, 3))
    gray = Image.new("RGB", (1, 1), RED).convert("L").getpixel((0, 0))
    color = (gray,) * 3 if name == "gray" else RED
    np.testing.assert_allclose(example["image"].mean((0, 1)), color, atol=6)


@pytest.mark.parametrize("name", ["cut", "none"])
def test_a_damaged_image_is_unreadable_by_name(source, name):
    row = [*FILES].index(name)
    with pytest.raises(UnreadableImageError) as caught:
        source[row]
    assert (
        caught.value.name
        == example_name(source, row)
        == f"{source.folder}:train[{row}]"
    )


def test_the_bytes_are_those_of_the_file(source):
    for row, content in enumerate(FILES.values()):
        assert read_encoded(source, row)["image"] == content
    np.testing.assert_array_equal(
        source[7]["image"], decode_image(FILES["plain"], "plain")
    )


def test_a_set_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got \['number'\] in .*features.Image"):
        TfdsSource(prepared(Numbers, tmp_path), "train")


def test_a_record_that_is_damaged_on_disk_is_unreadable_alone(tmp_path):
    folder = Path(prepared(Odd, tmp_path))
    (path,) = folder.glob("*.array_record*")
    content = bytearray(path.read_bytes())
    content[content.index(FILES["plain"]) + 40] ^= 1
    path.write_bytes(content)
    source = TfdsSource(folder, "train")
    with pytest.raises(UnreadableImageError, match="Corrupted"):
        source.encoded(7)
    assert source[0]["image"].shape == (24, 40, 3)


def test_text_of_another_encoding_ends_nothing_and_is_noted_where_it_is_used(tmp_path):
    source = TfdsSource(prepared(Latin, tmp_path), "train")
    example = source.encoded(0)
    assert (example["caption"], example["path"]) == ("a caf\ufffd", "caf\ufffd.png")
    assert "not UTF-8" in example["repair"]
    assert source[0].keys() == {"id", "image", "caption", "path"}
