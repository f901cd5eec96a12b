"""Tensors from files that `torch.save` wrote before version 1.6; nothing is executed.

Many published networks are still in this format: a few pickles one behind the other,
of which the fourth says what was saved, and then the bytes of the tensors. A pickle may
call anything by name, so all names but those of tensors and dicts are refused.
"""

from collections import OrderedDict
import dataclasses
import math
from pathlib import Path
import pickle
from typing import Any, BinaryIO

from jaxtyping import Shaped
import numpy as np

from vtp_eqx.config import require


MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Numbers that tensors share; they lie behind the pickles."""

    dtype: np.dtype
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; strides and offset count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_legacy(path: Path) -> bool:
    """Whether a file begins as this format does."""
    with path.open("rb") as file:
        try:
            return _Reader(file).load() == MAGIC
        except (pickle.UnpicklingError, *_BROKEN):
            return False


def read_torch_legacy(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Every tensor of a state dict by its name.

    A `ValueError` where the file is cut short, or holds something else than a dict of
    tensors.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (pickle.UnpicklingError, *_BROKEN) as error:
            raise ValueError(
                f"Weights of torch are a whole file with one dict of tensors; got "
                f"{path} ({error}), of which nothing was run: copy it again, or get "
                "the weights as safetensors."
            ) from error


_BROKEN = (
    ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError,
    MemoryError, ImportError,
)  # fmt: skip


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    require(_Reader(file).load() == MAGIC, "it begins otherwise")
    require(_Reader(file).load() == PROTOCOL, "its protocol is another")
    _Reader(file).load()  # sizes of numbers on the machine that wrote it
    saved = _Reader(file).load()
    require(
        isinstance(saved, dict)
        and all(isinstance(tensor, _Tensor) for tensor in saved.values()),
        "it holds something else",
    )
    storages = {tensor.storage.key: tensor.storage for tensor in saved.values()}
    numbers = {}
    for key in _Reader(file).load():
        require(key in storages, f"storage {key!r} is of no tensor")
        numbers[key] = _numbers(file, storages[key])
    return {
        name: _view(numbers[tensor.storage.key], tensor, name)
        for name, tensor in saved.items()
    }


def _numbers(file: BinaryIO, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little")
    require(size == storage.size, f"storage {storage.key!r} has {size} numbers")
    content = file.read(size * storage.dtype.itemsize)
    require(
        len(content) == size * storage.dtype.itemsize,
        f"storage {storage.key!r} is cut short",
    )
    return np.frombuffer(content, storage.dtype)


def _view(numbers: np.ndarray, tensor: _Tensor, name: str) -> np.ndarray:
    counts = (tensor.offset, *tensor.shape, *tensor.strides)
    require(
        all(type(count) is int and count >= 0 for count in counts)
        and len(tensor.shape) == len(tensor.strides),
        f"`{name}` has no shape",
    )
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, numbers.dtype)
    last = tensor.offset + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    require(last < len(numbers), f"`{name}` reaches out of its storage")
    steps = [stride * numbers.itemsize for stride in tensor.strides]
    start = numbers[tensor.offset :]
    return np.lib.stride_tricks.as_strided(start, tensor.shape, steps).copy()


class _Reader(pickle.Unpickler):
    """A pickle machine that knows the names below and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if module == "torch._utils" and name in _MAKERS:
            return _MAKERS[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, fields: Any) -> _Storage:
        kind, dtype, key, _, size, *view = fields
        require(
            kind == "storage" and isinstance(dtype, np.dtype) and view in ([], [None]),
            "a storage is not described as one",
        )
        return _Storage(dtype, key, size)


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any):
    require(isinstance(storage, _Storage), "a tensor has no storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_MAKERS = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
}
