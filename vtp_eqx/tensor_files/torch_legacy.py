"""Tensors from files that `torch.save` wrote before version 1.6; nothing is executed.

Many published networks are still in this format: a few programs one behind the other,
of which the fourth says what was saved, and then the bytes of the tensors. They are
read by `vtp_eqx.tensor_files.torch_program`.
"""

from pathlib import Path
import reprlib
from typing import Any, BinaryIO

from jaxtyping import Shaped
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.tensor_files.torch_program import (
    built,
    numbers_of,
    state_dict,
    StoredTensor,
)


MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def is_torch_legacy(path: Path) -> bool:
    """Whether a file begins as this format does."""
    with path.open("rb") as file:
        try:
            return built(file, path) == MAGIC
        except ValueError:
            return False


def read_torch_legacy(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Every tensor of a state dict by its name.

    A `ValueError` where the file is cut short, or holds something else than a dict of
    tensors.
    """
    with path.open("rb") as file:
        opening = [built(file, path) for _ in range(2)]
        require(
            opening == [MAGIC, PROTOCOL],
            f"A file of old torch begins with {MAGIC} and {PROTOCOL}; got "
            f"{reprlib.repr(opening)} in {path}: copy it again.",
        )
        built(file, path)  # sizes of numbers on the machine that wrote it
        tensors = state_dict(built(file, path), path)
        storages = {tensor.record: tensor for tensor in tensors.values()}
        keys = built(file, path)
        require(
            isinstance(keys, list)
            and all(isinstance(key, str) for key in keys)
            and set(keys) == storages.keys(),
            f"The bytes of every tensor follow; got those of {reprlib.repr(keys)} for "
            f"{reprlib.repr(sorted(storages))} in {path}: copy it again.",
        )
        contents = {key: _content(file, storages[key]) for key in keys}
    return {
        name: numbers_of(tensor, contents[tensor.record], f"`{name}` in {path}")
        for name, tensor in tensors.items()
    }


def _content(file: BinaryIO, tensor: StoredTensor) -> Any:
    """The bytes of a storage; what is too few of them is seen by `numbers_of`."""
    size = int.from_bytes(file.read(8), "little")
    # Never more than the program said, whatever the count in the file.
    return file.read(min(size, tensor.record_size) * np.dtype(tensor.dtype).itemsize)
