import zipfile

import numpy as np
import pytest

from vtp_eqx.tensor_files import TorchFile, write_torch_file


ARRAYS = {
    "mean": np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1) / 4,
    "std": np.arange(12, dtype=np.float32).reshape(3, 4).T,
}


def test_what_is_written_is_read_back(tmp_path):
    write_torch_file(tmp_path / "x.pt", ARRAYS)
    with TorchFile(tmp_path / "x.pt") as file:
        found = {name: file.read(t, name) for name, t in file.tensors().items()}
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_parts_that_share_arrays_are_written_once(tmp_path):
    write_torch_file(tmp_path / "x.pt", {"model": ARRAYS, "ema": {"a": ARRAYS["std"]}})
    write_torch_file(tmp_path / "y.pt", ARRAYS)
    with TorchFile(tmp_path / "x.pt") as file:
        found = {
            (part, name): file.read(tensor, name)
            for part, tensors in file.content.items()
            for name, tensor in tensors.items()
        }
    assert found.keys() == {("model", "mean"), ("model", "std"), ("ema", "a")}
    np.testing.assert_array_equal(found["model", "mean"], ARRAYS["mean"])
    np.testing.assert_array_equal(found["model", "std"], ARRAYS["std"])
    np.testing.assert_array_equal(found["ema", "a"], ARRAYS["std"])
    records = [
        {n for n in zipfile.ZipFile(tmp_path / name).namelist() if "/data/" in n}
        for name in ("x.pt", "y.pt")
    ]
    assert len(records[0]) == len(records[1]) == 2


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_torch_file(tmp_path / "x.pt", ARRAYS)
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
    write_torch_file(tmp_path / "parts.pt", {"model": ARRAYS, "ema": ARRAYS})
    found = torch.load(tmp_path / "parts.pt", weights_only=True)
    for part in ("model", "ema"):
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[part][name].numpy(), array)
