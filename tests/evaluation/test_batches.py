import equinox as eqx
import jax
import numpy as np
import pytest

from vtp_eqx.evaluation.batches import (
    as_bytes,
    byte_levels,
    encode_images,
    in_batches,
)


def test_a_batch_that_is_not_full_changes_nothing(tokenizer):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    few, whole = (encode_images(tokenizer, images, batch_size=size) for size in (4, 6))
    np.testing.assert_allclose(few, whole, atol=1e-5)


def test_a_method_is_compiled_once_for_all_calls():
    class Scale(eqx.Module):
        by: float

        def __call__(self, row):
            traced.append(row.shape)
            return {"scaled": self.by * row}

    traced = []
    for count in (1, 5):
        rows = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
        found = in_batches(Scale.__call__, Scale(3.0), rows, batch_size=2)
        np.testing.assert_array_equal(found["scaled"], 3 * rows)
    assert traced == [(2,)]


def test_bytes_are_clipped_and_rounded_by_hand():
    levels = np.array([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.5], np.float32)
    np.testing.assert_array_equal(as_bytes(levels), [0, 0, 0, 1, 255, 255])
    halves = np.array([0.5, 1.5, 2.5], np.float64) / 255
    np.testing.assert_array_equal(byte_levels(halves), [0, 2, 2])
    with pytest.raises(ValueError, match=r"^`images` \(1 values of NaN\) must"):
        as_bytes(np.array([np.nan], np.float32))


def test_bytes_come_back_as_they_were():
    every = np.arange(256, dtype=np.uint8)
    floats = every.astype(np.float32) / 255
    np.testing.assert_array_equal(as_bytes(floats), every)
    compiled = jax.jit(lambda image: byte_levels(image) / 255)
    np.testing.assert_allclose(compiled(floats), floats, rtol=2e-7)
    assert np.isnan(compiled(np.float32([np.nan]))).all()
