"""Statistics of latents: exact, whatever the order and the split, and resumed."""

from fractions import Fraction

import equinox as eqx
from hypothesis import given, strategies as st
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation import latent_statistics as module
from vtp_eqx.evaluation.batches import encoded_latents
from vtp_eqx.evaluation.latent_statistics import (
    exact_sums,
    LatentSums,
    measure_latents,
)
from vtp_eqx.mesh import data_mesh


def test_mean_and_deviation_by_hand():
    latents = np.array([[[[1, 5]], [[3, 5]]]], np.float32)  # one image of 2 x 1 patches
    sums = LatentSums.of(latents)
    mean, deviation = sums.statistics()
    np.testing.assert_array_equal(mean, [2, 5])
    np.testing.assert_array_equal(deviation, [1, 0])
    assert (sums.num_images, sums.num_latents) == (1, 2)


@given(seed=st.integers(0, 2**31 - 1), offset=st.sampled_from([0, 100, 10_000]))
def test_statistics_are_those_of_two_passes_in_any_order_and_parts(seed, offset):
    # A mean far from zero is where a float32 sum of squares would fail.
    draw = np.random.default_rng(seed)
    latents = (draw.normal(size=(8, 3, 3, 2)) + offset).astype(np.float32)
    wide = latents.astype(np.float64)
    expected = wide.mean(axis=(0, 1, 2)), wide.std(axis=(0, 1, 2))
    whole = LatentSums.of(latents)
    for ours, theirs in zip(whole.statistics(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    parts = np.array_split(latents[draw.permutation(8)], [1, 4])
    assert sum(map(LatentSums.of, parts), LatentSums()) == whole


@given(seed=st.integers(0, 2**31 - 1))
def test_sums_lose_no_bit_between_the_largest_and_the_smallest_number(seed):
    draw = np.random.default_rng(seed)
    scales = 2.0 ** draw.integers(-148, 127, (40, 3))
    values = (draw.normal(size=(40, 3)) * scales).astype(np.float32).astype(np.float64)
    values[:, 2] = 0
    for rows in (values, values**2):
        exact = [sum(map(Fraction, column)) for column in rows.T.tolist()]
        assert exact_sums(rows) == tuple(exact)


def test_sums_are_read_back_as_they_were_written():
    sums = LatentSums.of(np.float32([[[[0.1, -3e-30]]]])) + LatentSums(num_skipped=2)
    assert LatentSums.from_json(sums.as_json()) == sums


def test_latents_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"`latents` \(1 values of NaN"):
        LatentSums.of(np.float32([[[[1, np.nan]]]]))


class Counted(ArraySource):
    """Counts the rows that are read, and stops at one of them."""

    def __init__(self, images):
        super().__init__({"image": images})
        self.read, self.killed_at = [], None

    def __getitem__(self, row):
        if row == self.killed_at:
            raise KeyboardInterrupt
        self.read.append(row)
        return super().__getitem__(row)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_IMAGES", 10)
    monkeypatch.setattr(module, "DEVICE_IMAGES", 4)


@pytest.fixture(scope="module")
def images(scenes):
    return scenes.arrays["image"][:35]


@pytest.fixture
def measured(tokenizer, images, tmp_path):
    """The tokenizer with the statistics over 35 scenes."""
    source = ArraySource({"image": images})
    return measure_latents(tokenizer, source, tmp_path / "whole", mesh=data_mesh(1))[0]


def statistics(tokenizer):
    return np.stack([tokenizer.latent_mean, tokenizer.latent_std])


def test_all_images_are_measured_and_nothing_else_changes(tokenizer, images, measured):
    latents = encoded_latents(tokenizer, images).astype(np.float64)
    expected = [latents.mean(axis=(0, 1, 2)), latents.std(axis=(0, 1, 2))]
    np.testing.assert_allclose(statistics(measured), expected, rtol=1e-5, atol=1e-6)
    where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
    assert eqx.tree_equal(eqx.tree_at(where, measured, where(tokenizer)), tokenizer)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_order_batches_and_devices_change_no_bit(
    num_devices, tokenizer, images, measured, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "DEVICE_IMAGES", 3)
    monkeypatch.setattr(module, "BLOCK_IMAGES", 16)
    order = np.random.default_rng(0).permutation(35)
    other, _ = measure_latents(
        tokenizer, ArraySource({"image": images[order]}), tmp_path,
        mesh=data_mesh(num_devices), num_threads=3,
    )  # fmt: skip
    np.testing.assert_array_equal(statistics(other), statistics(measured))


def test_a_killed_measurement_goes_on_and_ends_equal(
    tokenizer, images, measured, tmp_path
):
    source = Counted(images)
    measure = lambda: measure_latents(tokenizer, source, tmp_path, mesh=data_mesh(1))
    source.killed_at = 25
    with pytest.raises(KeyboardInterrupt):
        measure()
    source.killed_at = None
    source.read.clear()
    again, sums = measure()
    # Files of ten images: the first two were whole.
    assert sorted(source.read) == list(range(20, 35))
    np.testing.assert_array_equal(statistics(again), statistics(measured))
    assert sums.coverage(35) == "35 of 35 training images"
    source.read.clear()
    (folder,) = tmp_path.glob("latents-*")
    (folder / "images-00000010.json").write_text("torn")
    measure()
    assert sorted(source.read) == list(range(10, 20))


def test_another_encoder_is_measured_anew(tokenizer, images, tmp_path):
    source = Counted(images)
    measure_latents(tokenizer, source, tmp_path, mesh=data_mesh(1))
    source.read.clear()
    where = lambda tokenizer: tokenizer.bottleneck.weight
    other = eqx.tree_at(where, tokenizer, 2 * where(tokenizer))
    measure_latents(other, source, tmp_path, mesh=data_mesh(1))
    assert len(source.read) == 35


def test_a_cap_takes_images_evenly_and_says_so(tokenizer, images, tmp_path):
    source = Counted(images)
    measure = lambda count: measure_latents(
        tokenizer, source, tmp_path, mesh=data_mesh(1), max_images=count
    )
    _, sums = measure(5)
    assert sorted(source.read) == [0, 7, 14, 21, 28]
    assert sums.coverage(35) == "5 of 35 training images, evenly spread"
    assert measure(36)[1].num_images == 35


def test_images_that_cannot_be_read_are_left_out_and_counted(
    tokenizer, images, measured, tmp_path
):
    for row, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{row:02d}.png")
    (tmp_path / "40.png").write_bytes(b"torn")
    source = FolderSource(tmp_path)
    found, sums = measure_latents(tokenizer, source, tmp_path, mesh=data_mesh(1))
    assert sums.coverage(36) == "35 of 36 training images, 1 unreadable"
    np.testing.assert_array_equal(statistics(found), statistics(measured))
    for path in tmp_path.glob("[0-3]*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="36 could not be read: check the path"):
        measure_latents(
            tokenizer, FolderSource(tmp_path), tmp_path / "other", mesh=data_mesh(1)
        )


def test_larger_images_are_cropped_to_the_size_of_the_tokenizer(tokenizer, tmp_path):
    draw = np.random.default_rng(0)
    large = draw.integers(0, 256, (2, 64, 80, 3)).astype(np.uint8)
    source = ArraySource({"image": large})
    _, sums = measure_latents(tokenizer, source, tmp_path, mesh=data_mesh(1))
    assert sums.num_latents == 2 * 16
    assert jnp.isfinite(np.array(sums.statistics())).all()
