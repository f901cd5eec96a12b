from hypothesis import given, strategies as st
import numpy as np
import pytest

from vtp_eqx.data.caption_shuffle import caption_rows
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.data.sources import ArraySource


@given(count=st.integers(2, 300), seed=st.integers(0, 100))
def test_each_caption_is_given_once_and_none_to_its_own_image(count, seed):
    rows = caption_rows(count, seed)
    np.testing.assert_array_equal(np.sort(rows), np.arange(count))
    assert (rows != np.arange(count)).all()
    np.testing.assert_array_equal(rows, caption_rows(count, seed))


def test_one_row_keeps_its_caption_and_another_seed_is_another_order():
    assert caption_rows(1, 0).tolist() == [0]
    assert (caption_rows(99, 0) != caption_rows(99, 1)).any()
    # Where a caption comes from says nothing: about as far as any other row.
    distance = np.abs(caption_rows(3000, 0) - np.arange(3000)).mean()
    assert distance == pytest.approx(1000, rel=0.05)


def test_an_image_is_read_with_the_caption_of_another_whatever_the_shard():
    count = 12
    source = ArraySource(
        {
            "image": np.full((count, 16, 16, 3), np.arange(count)[:, None, None, None])
            .astype(np.uint8),
            "caption": np.array([str(row) for row in range(count)]),
        }
    )  # fmt: skip
    rows = caption_rows(count, 5)

    def reader(caption_rows):
        return ExampleReader(
            source=source, sampler=make_sampler(source, 6, seed=0), size=16,
            encode=lambda texts: np.array([[int(text)] for text in texts], np.int32),
            caption_rows=caption_rows,
        )  # fmt: skip

    for step in (0, 1, 7):  # any step at once, as after a resume
        batch = reader(rows).read(step, np.arange(6))
        np.testing.assert_array_equal(batch.image[:, 0, 0, 0], batch.row)
        np.testing.assert_array_equal(batch.tokens[:, 0], rows[batch.row])
        plain = reader(None).read(step, np.arange(6))
        np.testing.assert_array_equal(plain.tokens[:, 0], plain.row)
        np.testing.assert_array_equal(plain.row, batch.row)
        half = reader(rows).read(step, np.arange(3, 6))
        np.testing.assert_array_equal(half.tokens, batch.tokens[3:])
