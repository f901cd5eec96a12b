import ml_dtypes
import numpy as np
import pytest

from vtp_eqx.interop.passthrough import origin_of, read_origin


CONSTANTS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
}


def test_what_is_the_same_needs_no_origin():
    settings = {"depth": 3}
    assert origin_of(settings, settings, CONSTANTS, CONSTANTS) == ""
    assert read_origin("").settings == {}


def test_settings_and_constants_come_back():
    settings = {"depth": 3, "other": None}
    ours = {name: array + 1 for name, array in CONSTANTS.items()}
    kept = read_origin(origin_of(settings, {"depth": 3}, CONSTANTS, ours))
    assert kept.settings == settings
    for name, array in CONSTANTS.items():
        assert kept.constants[name].dtype == array.dtype
        np.testing.assert_array_equal(kept.constants[name], array)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"settings": {}}', '{"settings": 1, "constants": {}}',
             '{"settings": {}, "constants": {"a": ["float32", [2], "AAAA"]}}']
)  # fmt: skip
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match="is the text it was read with"):
        read_origin(text)
