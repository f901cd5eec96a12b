import dataclasses

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation import extract
from vtp_eqx.evaluation.extract import (
    BatchConfig,
    extract_features,
    ExtractConfig,
)
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.images import Images
from vtp_eqx.mesh import data_mesh


SIZE = 8


def colors(scale, image):
    """Features that a test can work out: the mean color, and the first pixel."""
    return {"mean": scale * jnp.mean(image, axis=(0, 1)), "first": image[0, 0]}


def noise(count, size=SIZE):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ArraySource({"image": images, "label": np.arange(count) % 3})


class Counted(ArraySource):
    """Counts the rows that are read."""

    def __init__(self, source):
        super().__init__(source.arrays)
        self.read = []

    def __getitem__(self, row):
        self.read.append(row)
        return super().__getitem__(row)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(extract, "FILE_IMAGES", 8)


def place(folder, **changes):
    options = dict(batch_size=4, num_threads=2, mesh=data_mesh(1))
    return ExtractConfig(folder=folder, **{**options, **changes})


def images_of(source, **changes):
    return Images(source=source, crop=CenterCrop(SIZE), **changes)


def look(images, where, scale=2.0):
    return extract_features(colors, jnp.array(scale), images, where, stage="x")


def test_every_image_has_its_answer_in_order(tmp_path):
    source = noise(21)
    seen = look(images_of(source), place(tmp_path))
    floats = source.arrays["image"].astype(np.float64) / 255
    assert seen.count == 21
    np.testing.assert_array_equal(seen.column("row"), np.arange(21))
    np.testing.assert_array_equal(seen.column("label"), source.arrays["label"])
    mean = 2 * floats.mean(axis=(1, 2))
    np.testing.assert_allclose(seen.column("mean"), mean, rtol=1e-5)
    np.testing.assert_allclose(seen.column("first"), floats[:, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(
        seen.moments("mean").covariance, Moments.of(mean).covariance, rtol=1e-3
    )


@pytest.mark.parametrize("num_devices", [2, 4])
def test_devices_and_threads_change_no_answer(num_devices, tmp_path):
    source = noise(21)
    one = look(images_of(source), place(tmp_path / "one"))
    mesh = data_mesh(num_devices)
    many = look(images_of(source), place(tmp_path / "many", mesh=mesh, num_threads=5))
    for name in ("mean", "first"):
        np.testing.assert_allclose(one.column(name), many.column(name), rtol=1e-6)
    assert one.images_hash == many.images_hash


@pytest.mark.parametrize("killed_at", [0, 4, 8, 13, 20])
def test_a_killed_extraction_goes_on_and_ends_equal(killed_at, tmp_path):
    source = Counted(noise(21))
    whole = look(images_of(noise(21)), place(tmp_path / "whole"))

    def kill(stage, done, total):
        if done >= killed_at:
            raise KeyboardInterrupt

    where = place(tmp_path / "killed", report=kill)
    with pytest.raises(KeyboardInterrupt):
        look(images_of(source), where)
    source.read.clear()
    again = look(images_of(source), place(tmp_path / "killed"))
    # Files of eight images: those that were whole are not read again.
    assert sorted(source.read) == list(range(max(0, killed_at - 1) // 8 * 8, 21))
    for name in ("mean", "first", "row", "digest"):
        np.testing.assert_array_equal(again.column(name), whole.column(name))
    assert np.array_equal(again.moments("mean").scatter, whole.moments("mean").scatter)


def test_a_cache_changes_no_answer(tmp_path):
    source = bad_folder(tmp_path / "images", good=range(3, 20))
    cached = look(images_of(source), place(tmp_path / "out"))
    memory = look(images_of(source), BatchConfig(batch_size=4, mesh=None))
    for name in ("mean", "first", "row", "digest"):
        np.testing.assert_array_equal(memory.column(name), cached.column(name))
    assert memory.skipped == cached.skipped
    assert memory.files == ()
    np.testing.assert_allclose(
        memory.moments("mean").scatter, cached.moments("mean").scatter, rtol=1e-12
    )


def test_arrays_are_taken_as_they_are():
    image = noise(5).arrays["image"]
    seen = look(Images.of(image), BatchConfig(mesh=data_mesh(1)))
    first = image[:, 0, 0] / np.float32(255)
    np.testing.assert_allclose(seen.column("first"), first, rtol=1e-6)


def test_a_finished_extraction_is_not_taken_again(tmp_path):
    source = Counted(noise(9))
    look(images_of(source), place(tmp_path))
    source.read.clear()
    look(images_of(source), place(tmp_path))
    assert source.read == []


def test_a_damaged_file_is_taken_again(tmp_path):
    source = Counted(noise(21))
    before = look(images_of(source), place(tmp_path))
    for index, damage in ((0, b""), (1, before.files[1].read_bytes()[:-90])):
        before.files[index].write_bytes(damage)
    source.read.clear()
    after = look(images_of(source), place(tmp_path))
    assert sorted(source.read) == list(range(16))
    np.testing.assert_array_equal(after.column("row"), np.arange(21))


def test_other_answers_are_another_cache(tmp_path):
    source = noise(9)
    first = look(images_of(source), place(tmp_path))
    for images, scale in (
        (images_of(source), 3.0),
        (images_of(source, limit=5), 2.0),
        (Images(source=source, crop=CenterCrop(4)), 2.0),
        (images_of(noise(10)), 2.0),
    ):
        other = look(images, place(tmp_path), scale)
        assert not {*first.files} & {*other.files}
    again = look(images_of(source), place(tmp_path), 2.0)
    assert first.files == again.files


def test_a_limit_spreads_over_the_whole_source():
    assert images_of(noise(9), limit=3).rows.tolist() == [0, 3, 6]
    assert images_of(noise(9)).rows.tolist() == list(range(9))
    for limit in (0, 10):
        with pytest.raises(ValueError, match="some of the 9"):
            images_of(noise(9), limit=limit)


def test_the_batch_size_does_not_change_the_hash_of_images(tmp_path):
    few, many = (
        look(images_of(noise(9)), place(tmp_path, batch_size=size)) for size in (2, 8)
    )
    assert few.images_hash == many.images_hash
    assert few.images_hash != look(images_of(noise(8)), place(tmp_path)).images_hash


def bad_folder(folder, good=range(20)):
    """Twenty files: those not in `good` are no images."""
    folder.mkdir()
    for index in range(20):
        path = folder / f"{index:02d}.png"
        if index in good:
            image = np.full((SIZE, SIZE + index, 3), 10 * index, np.uint8)
            Image.fromarray(image).save(path)
        else:
            path.write_bytes(b"torn")
    return FolderSource(folder)


def test_unreadable_files_are_left_out_and_named(tmp_path):
    # The third file of eight rows holds no image at all, and the first batch neither.
    good = [index for index in range(4, 16) if index != 9]
    source = bad_folder(tmp_path / "images", good)
    (tmp_path / "images" / "05.png").unlink()
    seen = look(images_of(source), place(tmp_path / "out"))
    left = [index for index in good if index != 5]
    assert seen.column("row").tolist() == left
    np.testing.assert_allclose(
        seen.column("first")[:, 0], np.array(left) * 10 / 255, rtol=1e-6
    )
    assert seen.skipped.keys() == {f"{i:02d}.png" for i in range(20)} - {
        f"{i:02d}.png" for i in left
    }
    reason = "not an image that can be read: text that begins with 'torn'"
    assert seen.skipped["00.png"] == reason
    assert "No such file" in seen.skipped["05.png"]
    look(images_of(source, num_samples=10), place(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"got 10 of 20, and 10 .*00.png"):
        look(images_of(source, num_samples=20), place(tmp_path / "out"))


def test_an_image_that_no_crop_takes_is_left_out(tmp_path):
    source = bad_folder(tmp_path / "images")
    long = np.zeros((1, 60000, 3), np.uint8)
    Image.fromarray(long).save(tmp_path / "images" / "03.png")
    crop = CenterCrop(64)
    seen = extract_features(
        colors, jnp.array(1.0), Images(source=source, crop=crop),
        place(tmp_path / "out"), stage="x",
    )  # fmt: skip
    assert "too long" in seen.skipped["03.png"]
    assert seen.count == 19


def test_no_image_at_all_is_an_error(tmp_path):
    source = bad_folder(tmp_path / "images", good=())
    with pytest.raises(ValueError, match=r"none of 20.*not an image"):
        look(images_of(source), place(tmp_path / "out"))


def test_what_was_not_asked_is_an_error(tmp_path):
    seen = look(images_of(bad_folder(tmp_path / "images")), place(tmp_path / "out"))
    with pytest.raises(ValueError, match="no `label`"):
        seen.column("label")
    with pytest.raises(ValueError, match="multiple"):
        place(tmp_path, mesh=data_mesh(8))
    with pytest.raises(ValueError, match="fingerprint"):
        look(images_of([{"image": 1}]), place(tmp_path))


def test_a_report_ends_where_it_should(tmp_path):
    said = []
    where = place(tmp_path, report=lambda *what: said.append(what))
    look(images_of(noise(10)), where)
    assert said == [("x", done, 10) for done in (0, 4, 8, 10)]
    look(images_of(noise(10)), dataclasses.replace(where))
    assert said[-1] == ("x", 10, 10)


def test_images_made_again_under_the_same_names_and_sizes_are_read_again(tmp_path):
    means = []
    for value in (10, 200):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in "abc":
            pixels = np.full((SIZE, SIZE, 3), value, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.bmp")
        source = FolderSource(tmp_path / "images")
        means.append((look(images_of(source), place(tmp_path / "out")), source))
    (old, first), (new, second) = means
    assert first.fingerprint == second.fingerprint
    np.testing.assert_allclose(old.column("first"), 10 / 255, rtol=1e-6)
    np.testing.assert_allclose(new.column("first"), 200 / 255, rtol=1e-6)
    again = look(images_of(second), place(tmp_path / "out"))
    assert again.files == new.files
