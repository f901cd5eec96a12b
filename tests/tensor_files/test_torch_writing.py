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


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write_torch_file(tmp_path / "x.pt", ARRAYS)
    found = torch.load(tmp_path / "x.pt", weights_only=True)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
