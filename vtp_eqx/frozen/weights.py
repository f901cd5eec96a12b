"""Files of frozen networks that others published: found, checked, and read.

A number measured with a network is only comparable with others measured with the same
weights, so a file must have the hash it was published with. Weights of one's own are
read too, but only where that is asked for, and the network says so in its `origin`.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Literal

import equinox as eqx
import numpy as np

from vtp_eqx import tensor_files
from vtp_eqx.config import require
from vtp_eqx.file_kinds import NPZ_ERRORS, npz_fault, open_npz
from vtp_eqx.models.arrays import arrays_hash, named_arrays
from vtp_eqx.tensor_files import is_torch_legacy, read_torch_legacy, TorchFile
from vtp_eqx.tensor_files.name_table import Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of weights: its name, where it is published, and its hash."""

    name: str
    address: str
    algorithm: Literal["sha256", "md5"] = "sha256"
    digest: str

    def read(
        self, path: str | os.PathLike[str], *, check: bool = True
    ) -> tuple[Tensors, str]:
        """The tensors in `path`, and in words whose they are.

        A missing file is a `FileNotFoundError`, another hash than the published one a
        `ValueError`; `check=False` takes any weights, and the words say so.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"The weights are those of {self.name}; got no file {path}: download "
                f"it from {self.address} ({self.algorithm} {self.digest})."
            )
        if not check:
            return read_tensors(path), f"unchecked {path.name}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, self.algorithm).hexdigest()
        require(
            found == self.digest,
            f"{self.name} has the {self.algorithm} {self.digest}; got {found} for "
            f"{path}: download it again from {self.address}, or pass `check=False` to "
            "measure with weights of your own.",
        )
        words = f"{self.name} {self.algorithm} {self.digest} from {self.address}"
        return read_tensors(path), words


def read_tensors(path: Path) -> Tensors:
    """Every array of a `.safetensors`, `.npz` or `.pth` file by its name.

    float64, NumPy's default, is rounded to float32. Nothing in a file is executed. A
    `ValueError` says what cannot be read.
    """
    return {
        name: tensor.astype(np.float32) if tensor.dtype == np.float64 else tensor
        for name, tensor in _stored_tensors(path).items()
    }


def network_hash(network: eqx.Module) -> str:
    """Sixteen hexadecimal digits that name the arrays a network measures with."""
    return arrays_hash(named_arrays(eqx.filter(network, eqx.is_array)))


def _stored_tensors(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return tensor_files.read_tensors(path)
    if path.suffix in (".pth", ".pt"):
        if is_torch_legacy(path):
            return read_torch_legacy(path)
        with TorchFile(path) as file:
            return {name: file.read(at, name) for name, at in file.tensors().items()}
    require(
        path.suffix == ".npz",
        f"Weights are read from .safetensors, .npz and .pth files; got {path}: convert "
        "it, keeping the names of its tensors.",
    )
    try:
        with open_npz(path) as content:
            return dict(content)
    except NPZ_ERRORS as error:
        fault = npz_fault(path, error)
        raise ValueError(
            f"Weights must be a whole file; got {path} ({fault}): copy it again."
        ) from error
