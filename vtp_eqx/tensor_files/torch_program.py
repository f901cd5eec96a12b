"""The programs of Python's pickle machine that describe tensors.

Such a program may call anything by name. Here the machine knows a few names, all of
which stand for objects of this module, and only the instructions that build dicts,
lists, tuples, numbers, texts and tensors. A program with another instruction is refused
before the machine begins, and one with another name when it comes to that.
"""

import io
import math
from pathlib import Path
import pickle
import pickletools
import reprlib
from typing import Any, BinaryIO, NamedTuple

from jaxtyping import Shaped
import ml_dtypes
import numpy as np

from vtp_eqx.config import first_sentence, require


_STORAGES: dict[str, Any] = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
_DICT = "collections OrderedDict"
_TENSORS = {"torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2"}
_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN = {*_STORAGES, *_TENSORS, _DICT, _PARAMETER}
# What picklers write for dicts, lists, tuples, numbers, texts, and calls by name.
_INSTRUCTIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4",
    "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD",
}  # fmt: skip


# A tuple, because a program could set the attributes of other objects.
class StoredTensor(NamedTuple):
    """Where a tensor lies in a `TorchFile`; strides and offset count numbers."""

    record: str
    dtype: Any
    record_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def state_dict(content: Any, path: Path) -> dict[str, StoredTensor]:
    """`content`, where it is a tensor for each name and nothing else."""
    require(
        isinstance(content, dict)
        and all(
            isinstance(name, str) and isinstance(value, StoredTensor)
            for name, value in content.items()
        ),
        f"A state dict has a tensor for each name; got other content in {path}: save "
        "the model's state dict alone.",
    )
    return content


def numbers_of(
    tensor: StoredTensor, content: bytes, place: str
) -> Shaped[np.ndarray, "..."]:
    """A tensor's numbers out of the bytes of its storage; `place` is for errors."""
    kind = np.dtype(tensor.dtype)
    require(
        len(content) == tensor.record_size * kind.itemsize,
        f"A stored tensor has the bytes its program says; got {len(content)} for "
        f"{tensor.record_size} of {kind} for {place}: copy the file again.",
    )
    shape, strides = tensor.shape, tensor.strides
    reach = sum(
        (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
    )
    size = math.prod(shape)
    require(
        size <= tensor.record_size
        and (size == 0 or tensor.offset + reach < tensor.record_size),
        f"A tensor lies within its storage; got shape {shape}, strides {strides} and "
        f"offset {tensor.offset} in {tensor.record_size} numbers for {place}: save the "
        "model again.",
    )
    if size == 0:
        return np.zeros(shape, kind)
    numbers = np.frombuffer(content, kind)[tensor.offset :]
    # Along an axis of one number there are no steps, whatever the file says of them.
    steps = [
        stride * kind.itemsize if size > 1 else 0
        for size, stride in zip(shape, strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(numbers, shape, steps).copy()


def built(program: bytes | BinaryIO, path: Path) -> Any:
    """What a program builds out of nothing but what this module allows.

    Of a file, what stands at its position is read, and no more.
    """
    file = io.BytesIO(program) if isinstance(program, bytes) else program
    start = file.tell()
    place: Any = start
    checked = None
    at = lambda: f"byte {place if checked is None else start + checked.tell()}"
    try:
        for code, argument, place in pickletools.genops(file):
            if code.name not in _INSTRUCTIONS:
                raise ValueError(f"got the instruction {code.name}")
            # The machine makes room for every number up to this one. Picklers count,
            # so that no program has more numbers than bytes.
            if code.name in ("BINPUT", "LONG_BINPUT") and argument > place - start:
                raise ValueError(f"got the instruction {code.name} of {argument}")
            if code.name == "GLOBAL":
                _named(str(argument))
        length = file.tell() - start
        file.seek(start)
        checked = io.BytesIO(file.read(length))
        return _Unpickler(checked).load()
    except ValueError as error:
        raise ValueError(
            f"A checkpoint holds dicts, lists, numbers, texts and tensors; "
            f"{first_sentence(error)}, at "
            f"{at()} of the program in {path}: nothing of it was run; get the weights "
            "as safetensors, or from someone you trust."
        ) from error
    except Exception as error:  # what a damaged program raises is not documented
        raise ValueError(
            f"A checkpoint's program is whole; {at()} of the program in {path} cannot "
            f"be followed ({type(error).__name__}: {first_sentence(error)}): copy the "
            "file again."
        ) from error


class _Unpickler(pickle.Unpickler):
    """Python's pickle machine, in which names are looked up in this module alone."""

    def find_class(self, module: str, name: str) -> Any:
        return _named(f"{module} {name}")

    def persistent_load(self, pid: Any) -> StoredTensor:
        what, kind, record, _, size, *view = _is(tuple, pid)
        require(
            (what, view) in (("storage", []), ("storage", [None]))
            and isinstance(record, str)
            and type(size) is int,
            f"got a storage {reprlib.repr(record)} of size {reprlib.repr(size)}",
        )
        dtype = _STORAGES[_is(_Global, kind).name]
        return StoredTensor(record, dtype, size, 0, (), ())


class _Global(NamedTuple):
    """What stands for a class of storage or a function of torch."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        if self.name == _DICT:
            return _Dict(*arguments)
        if self.name == _PARAMETER:
            return _is(StoredTensor, arguments[0])
        require(self.name in _TENSORS, f"got a call of `{self.name.replace(' ', '.')}`")
        storage, offset, shape, strides = arguments[:4]
        counts = (offset, *_is(tuple, shape), *_is(tuple, strides))
        require(
            all(type(count) is int and count >= 0 for count in counts)
            and len(shape) == len(strides),
            f"got a tensor of shape {reprlib.repr(shape)}, strides "
            f"{reprlib.repr(strides)} and offset {reprlib.repr(offset)}",
        )
        return _is(StoredTensor, storage)._replace(
            offset=offset, shape=shape, strides=strides
        )


class _Dict(dict):
    """A dict that drops what a program sets on it: versions of a model's modules."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _named(name: str) -> _Global:
    require(name in _KNOWN, f"got `{name[:80].replace(' ', '.')}`")
    return _Global(name)


def _is(kind: type, value: Any) -> Any:
    require(isinstance(value, kind), f"got a {type(value).__name__} out of place")
    return value
