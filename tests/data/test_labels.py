import numpy as np
import pytest

from vtp_eqx.data.labels import describe_label, label_of, NO_LABEL


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), 3.0, np.array(3), np.array([3]), [[3]]]
)
def test_a_whole_number_is_a_label_however_it_is_stored(value):
    assert label_of({"label": value}) == 3


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({}, "no label"),
        ({"label": None}, "null"),
        ({"label": np.array(None)}, "None"),
        ({"label": -1}, "-1"),
        ({"label": np.float32(np.nan)}, "nan"),
        ({"label": np.inf}, "inf"),
        ({"label": 2.5}, "2.5"),
        ({"label": 2**31}, "2147483648"),
        ({"label": "cat"}, "'cat'"),
        ({"label": np.array([0, 1, 0])}, "an array of shape (3,), one-hot"),
        ({"label": np.array([1, 1, 0])}, "an array of shape (3,)"),
        ({"label": np.zeros(0)}, "an array of shape (0,)"),
    ],
)
def test_what_is_no_class_is_none_and_described(example, words):
    assert label_of(example) == NO_LABEL
    assert describe_label(example) == words
