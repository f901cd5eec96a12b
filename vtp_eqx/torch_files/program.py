"""The programs of Python's pickle machine that describe tensors, never executed.

Such a program may call anything by name. Here is a machine that has only the
instructions that build dicts, lists, tuples, numbers, texts and tensors; a program with
another instruction, or that names anything else, is refused.
"""

import dataclasses
import math
from pathlib import Path
import pickletools
from typing import Any, BinaryIO

from jaxtyping import Shaped
import ml_dtypes
import numpy as np

from vtp_eqx.config import require


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
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_MARK = object()


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a `TorchFile`; strides and offset count numbers."""

    record: str
    dtype: Any
    record_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """What a program named: a class of storage or a function, never looked up."""

    name: str


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
        f"{tensor.record_size} of {kind} behind {place}: copy the file again.",
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
    steps = [stride * kind.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers, shape, steps).copy()


def built(program: bytes | BinaryIO, path: Path) -> Any:
    """What a program builds, by the instructions of this module alone.

    Of a file, what stands at its position is read, and no more.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    byte: int | None = 0
    try:
        for code, argument, place in pickletools.genops(program):
            byte = place
            if code.name == "STOP":
                return _pop(stack)
            _step(code.name, argument, stack, memo)
    except ValueError as error:
        raise ValueError(
            f"A checkpoint holds dicts, lists, numbers, texts and tensors; {error}, at "
            f"byte {byte} of the program in {path}: nothing of it was run; get the "
            "weights as safetensors, or from someone you trust."
        ) from error
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"A checkpoint's program is whole; byte {byte} of the one in {path} cannot "
            f"be followed ({type(error).__name__}): copy the file again."
        ) from error


def _step(code: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if code in ("PROTO", "FRAME"):
        return
    if code in _EMPTY:
        stack.append(_EMPTY[code]())
    elif code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code in _NUMBERS_AND_TEXTS:
        stack.append(argument)
    elif code == "MARK":
        stack.append(_MARK)
    elif code in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif code == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif code in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif code == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(code[-1])
        items = tuple(_pop(stack) for _ in range(count))
        stack.append(items[::-1])
    elif code == "APPEND":
        item = _pop(stack)
        _is(list, stack[-1]).append(item)
    elif code == "APPENDS":
        items = _since_mark(stack)
        _is(list, stack[-1]).extend(items)
    elif code == "SETITEM":
        value, key = _pop(stack), _pop(stack)
        _is(dict, stack[-1])[key] = value
    elif code == "SETITEMS":
        items = _since_mark(stack)
        _is(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
    elif code == "BUILD":  # attributes of a state dict: versions of its modules
        _pop(stack)
        _is(dict, stack[-1])
    elif code == "GLOBAL":
        stack.append(_named(argument))
    elif code == "STACK_GLOBAL":
        name, module = _pop(stack), _pop(stack)
        stack.append(_named(f"{module} {name}"))
    elif code == "BINPERSID":
        stack.append(_storage(_pop(stack)))
    elif code == "REDUCE":
        arguments, function = _pop(stack), _pop(stack)
        stack.append(_called(_is(_Name, function).name, _is(tuple, arguments)))
    else:
        raise ValueError(f"got the instruction {code}")


def _named(name: str) -> _Name:
    require(name in _KNOWN, f"got `{name[:80].replace(' ', '.')}`")
    return _Name(name)


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _DICT:
        return dict(*arguments)
    if name == _PARAMETER:
        return _is(StoredTensor, arguments[0])
    require(name in _TENSORS, f"got a call of `{name.replace(' ', '.')}`")
    storage, offset, shape, strides = arguments[:4]
    counts = (offset, *_is(tuple, shape), *_is(tuple, strides))
    require(
        all(type(count) is int and count >= 0 for count in counts)
        and len(shape) == len(strides),
        f"got a tensor of shape {shape}, strides {strides} and offset {offset}",
    )
    return dataclasses.replace(
        _is(StoredTensor, storage), offset=offset, shape=shape, strides=strides
    )


def _storage(fields: Any) -> StoredTensor:
    what, kind, record, _, size, *view = _is(tuple, fields)
    require(
        (what, view) in (("storage", []), ("storage", [None]))
        and isinstance(record, str)
        and type(size) is int,
        f"got a storage {record!r} of size {size!r}",
    )
    return StoredTensor(record, _STORAGES[_is(_Name, kind).name], size, 0, (), ())


def _is(kind: type, value: Any) -> Any:
    require(isinstance(value, kind), f"got a {type(value).__name__} out of place")
    return value


def _pop(stack: list[Any]) -> Any:
    value = stack.pop()
    require(value is not _MARK, "got a mark out of place")
    return value


def _since_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]
