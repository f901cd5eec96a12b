import numpy as np
import pytest

from vtp_eqx.data.latent_batches import latent_batches
from vtp_eqx.data.latents import (
    dequantize,
    LatentCache,
    NpyShard,
    quantize,
)


@pytest.fixture
def cache(tmp_path):
    """Two shards of 5 and 3 images, two views; the value tells image and view."""
    latents = np.arange(8)[:, None] + np.array([0, 100])
    latents = np.float32(latents)[:, :, None, None, None] * np.ones(
        (1, 2, 3), np.float32
    )
    shards = []
    for number, part in enumerate((latents[:5], latents[5:])):
        path = tmp_path / f"latents-{number}.npy"
        np.save(path, part)
        shards.append(NpyShard(path=path, count=len(part)))
    return LatentCache(
        shards=tuple(shards), labels=np.arange(8) % 4, shape=(1, 2, 3), num_views=2,
        mean=np.zeros(3, np.float32), std=np.full(3, 2, np.float32),
    )  # fmt: skip


def test_images_are_read_by_row_and_view_across_shards(cache):
    found = cache.read(np.array([6, 0, 4, 7]), np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(found[:, 0, 0, 0], [6, 100, 4, 107])


def batches_of(cache, count, **options):
    stream = latent_batches(cache, 4, seed=3, num_threads=2, **options)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return found


def test_a_batch_is_a_function_of_seed_and_step_in_any_number_of_parts(cache):
    whole = batches_of(cache, 4)
    rows = np.concatenate([latents[:, 0, 0, 0] * 2 for latents, _ in whole]) % 100
    assert sorted(rows[:8]) == sorted(rows[8:]) == [*range(8)]
    np.testing.assert_array_equal(
        rows % 4, np.concatenate([labels for _, labels in whole])
    )
    views = np.concatenate([latents[:, 0, 0, 0] * 2 for latents, _ in whole]) >= 100
    assert 0 < views.sum() < 16
    later = batches_of(cache, 1, start_step=3)[0]
    np.testing.assert_array_equal(later[0], whole[3][0])
    parts = [batches_of(cache, 4, shard=(index, 2))[3][0] for index in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[3][0])


def test_a_latent_that_is_not_finite_names_its_shard(cache):
    path = cache.shards[1].path
    latents = np.load(path)
    latents[2, 1] = np.nan
    np.save(path, latents)
    cache.read(np.arange(8), np.zeros(8, int))
    with pytest.raises(
        ValueError, match=r"got NaN or infinity in .*latents-1.npy, .*2"
    ):
        cache.read(np.arange(8), np.ones(8, int))


def test_labels_outside_the_classes_are_refused(cache):
    cache.check_labels(4)
    with pytest.raises(ValueError, match=r"^`num_classes` \(3\) must be above every"):
        cache.check_labels(3)
    first = int(np.argmax(cache.labels == 3))
    with pytest.raises(ValueError, match=rf"outside, the first of image \[{first}\]"):
        cache.check_labels(3)


def test_bytes_are_half_a_level_off_at_most():
    draw = np.random.default_rng(0)
    latents = draw.normal(size=(5, 2, 3, 3, 4)).astype(np.float32) * [1, 5, 0.1, 0]
    latents = latents.astype(np.float32)
    levels, offset, scale = quantize(latents)
    assert levels.dtype == np.uint8
    error = np.abs(dequantize(levels, offset, scale) - latents)
    assert (error.max(axis=(0, 1, 2, 3)) <= 0.501 * np.array(scale)).all()
    assert error[..., 3].max() == 0
