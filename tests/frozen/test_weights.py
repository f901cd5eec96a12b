import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vtp_eqx.frozen.weights import PublishedFile, read_tensors


ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}


@pytest.fixture
def path(tmp_path):
    save_file(ARRAYS, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_with_the_published_hash_is_read(algorithm, path):
    digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    file = PublishedFile(
        name="net.pth", address="here", algorithm=algorithm, digest=digest
    )
    tensors, origin = file.read(path)
    np.testing.assert_array_equal(tensors["a"], ARRAYS["a"])
    assert origin == f"net.pth {algorithm} {digest} from here"


def test_another_hash_is_an_error_with_both(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = PublishedFile(name="net.pth", address="https://x", digest="0" * 64)
    with pytest.raises(ValueError, match=f"{'0' * 64}; got {digest}.*https://x"):
        file.read(path)
    assert file.read(path, check=False)[1] == "unchecked weights.safetensors"


def test_a_missing_file_is_an_error_with_its_address(tmp_path):
    file = PublishedFile(name="net.pth", address="https://x", digest="0" * 64)
    for check in (True, False):
        with pytest.raises(FileNotFoundError, match=f"net.pth.*https://x .*{'0' * 64}"):
            file.read(tmp_path / "none", check=check)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_that_is_cut_short_is_an_error(suffix, path, tmp_path):
    np.savez(tmp_path / "weights.npz", **ARRAYS)
    whole = (tmp_path / "weights").with_suffix(suffix)
    assert read_tensors(whole).keys() == ARRAYS.keys()
    cut = (tmp_path / "cut").with_suffix(suffix)
    cut.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(ValueError, match="copy it again"):
        read_tensors(cut)


def test_float64_is_rounded(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.float64([1 / 3]), b=np.int64([3]))
    found = read_tensors(tmp_path / "weights.npz")
    assert found["a"].dtype == np.float32
    assert found["a"] == np.float32(1 / 3)
    assert found["b"].dtype == np.int64


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="copy it again"):
        read_tensors(tmp_path / "objects.npz")


def test_old_and_new_files_of_torch_are_read():
    golden = Path(__file__).parents[1] / "golden"
    assert "running_mean" in read_tensors(golden / "torch_legacy" / "tensors.pth")
    # A whole checkpoint: seen by the reader of new files, and no state dict.
    with pytest.raises(ValueError, match="state dict alone"):
        read_tensors(golden / "torch_save" / "checkpoint.pt")


def test_a_file_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="convert it"):
        read_tensors(tmp_path / "weights.bin")
