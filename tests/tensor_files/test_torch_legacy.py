"""The old format of `torch.save`, written by torch 2.13.0 for these tests."""

import os
from pathlib import Path
import pickle

import numpy as np
import pytest

from vtp_eqx.tensor_files import is_torch_legacy, read_torch_legacy
from vtp_eqx.tensor_files.torch_reading import MAGIC, PROTOCOL


PATH = Path(__file__).parents[1] / "golden" / "torch_legacy" / "tensors.pth"
BASE = np.arange(12, dtype=np.float32).reshape(3, 4)
EXPECTED = {
    "weight": np.array([1.5, -2.0], np.float32),
    "bias": np.zeros(2, np.float32),
    "running_mean": np.zeros(2, np.float32),
    "running_var": np.ones(2, np.float32),
    "num_batches_tracked": np.array(0),
    "base": BASE,
    "turned": BASE.T,
    "middle": BASE[1:, 1:3],
    "parameter": np.ones(2, np.float32),
    "half": np.array([0.5, -1.25], np.float16),
    "double": np.array(0.1),
    "empty": np.zeros((0, 3), np.float32),
    "bytes": np.array([255], np.uint8),
}


def written(path, saved, keys=()):
    parts = (MAGIC, PROTOCOL, {}, saved, list(keys))
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    return path


def test_every_tensor_is_read_with_its_type_and_strides():
    assert is_torch_legacy(PATH)
    tensors = read_torch_legacy(PATH)
    assert tensors.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected, err_msg=name)


def test_a_file_that_is_cut_anywhere_is_an_error(tmp_path):
    content = PATH.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        cut = tmp_path / "cut.pth"
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth"):
            read_torch_legacy(cut)


class Call:
    """What a hostile file would do when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_file_names_is_run(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(ValueError, match=r"mkdir.*nothing of it was run"):
        read_torch_legacy(written(tmp_path / "evil.pth", {"a": Call(made)}))
    assert not made.exists()


def test_other_content_is_an_error(tmp_path):
    for saved in ([1, 2], {"a": 1.0}, {"a": {"b": None}}):
        with pytest.raises(ValueError, match="got other content"):
            read_torch_legacy(written(tmp_path / "other.pth", saved))
    other = tmp_path / "text.pth"
    other.write_text("not a pickle")
    assert not is_torch_legacy(other)
    with pytest.raises(ValueError, match="nothing of it was run"):
        read_torch_legacy(other)


def test_a_tensor_may_not_reach_out_of_its_storage(tmp_path):
    content = PATH.read_bytes()
    # The shape (3, 4) of `base` as the pickle has it, made (3, 40).
    assert content.count(b"K\x03K\x04\x86") == 1
    longer = tmp_path / "longer.pth"
    longer.write_bytes(content.replace(b"K\x03K\x04\x86", b"K\x03K\x28\x86"))
    with pytest.raises(
        ValueError, match=r"lies within its storage; got shape \(3, 40\).*`base`"
    ):
        read_torch_legacy(longer)
