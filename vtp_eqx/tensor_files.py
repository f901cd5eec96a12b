"""Tensors from safetensors files, with nothing believed that a header says of itself.

A file is eight bytes with the length of its header, the header (JSON), and one block of
bytes that the tensors share. A large model comes as several files, and an index that
says which tensor is in which.
"""

from collections.abc import Iterable, Mapping
import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from jaxtyping import Shaped
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from vtp_eqx.config import require
from vtp_eqx.files import atomic_path


Tensor = Shaped[np.ndarray, "..."]

CONFIG_FILE = "config.json"
PUBLISHED_WEIGHTS = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
PUBLISHED_INDEX = f"model{INDEX_SUFFIX}"
LARGEST_SIZE = 1_000_000  # more is no size of a model, but a way to fill memory
MAX_HEADER = 100_000_000  # bytes; the format's own limit
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_EXACT_IN_FLOAT32 = (np.float32, np.float16, ml_dtypes.bfloat16)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, or of the files that an index names.

    Tensors keep the type they are stored in. A file that is missing is a
    `FileNotFoundError`; one that is cut short or contradicts itself is a `ValueError`
    that names the file, and the tensor or the byte.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    require_file(path)
    with path.open("rb") as file:
        entries, _ = _read_header(file, path)
        data = np.fromfile(file, np.uint8)
    return {
        name: data[begin:end].view(dtype).reshape(shape)
        for name, (dtype, shape, begin, end) in entries.items()
    }


def read_notes(path: Path) -> dict[str, str]:
    """The notes in a safetensors file's header, beside what describes its tensors."""
    require_file(path)
    with path.open("rb") as file:
        return _read_header(file, path)[1]


def published_weights(folder: Path) -> Path:
    """The weights of a published checkpoint: its one file, or the index of several."""
    index = folder / PUBLISHED_INDEX
    whole = folder / PUBLISHED_WEIGHTS
    return index if index.is_file() and not whole.is_file() else whole


def write_model(
    folder: Path,
    weights_file: str,
    tensors: Mapping[str, Tensor],
    description: dict[str, Any],
) -> None:
    """Writes `config.json` and a safetensors file, each whole or not at all."""
    # Contiguous, because safetensors writes the buffer of a view as it lies.
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with (
        atomic_path(folder / CONFIG_FILE) as config,
        atomic_path(folder / weights_file) as weights,
    ):
        save_file(whole, weights, {"format": "pt"})
        config.write_text(json.dumps(description, indent=1, sort_keys=True))


def as_float32(tensor: Tensor, name: str) -> Shaped[np.ndarray, "..."]:
    """`tensor` in float32, equal in every number.

    A `ValueError` unless it is float32, float16 or bfloat16.
    """
    require(
        tensor.dtype in _EXACT_IN_FLOAT32,
        "Weights are float32, float16 or bfloat16; got "
        f"{tensor.dtype} for `{name}`: convert it.",
    )
    return np.asarray(tensor, np.float32)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; no name may stand twice in it."""
    require_file(path)
    return _object(path.read_bytes(), f"{path}", "copy it again")


def require_file(path: Path) -> None:
    """A `FileNotFoundError` unless `path` is a file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"A model is read from files that exist; got no {path.name} in "
            f"{path.parent}: check the path."
        )


Entry = tuple[Any, list[int], int, int]


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    require(
        len(start) == 8 and length <= min(size - 8, MAX_HEADER),
        "A safetensors file begins with the length of its header; bytes 0 to 7 of "
        f"{path} say {length} and the file has {size}: it is cut short, or of another "
        "format.",
    )
    header = _object(file.read(length), f"the header of {path}", "copy the file again")
    notes = header.pop("__metadata__", {})
    require(
        isinstance(notes, dict) and all(isinstance(n, str) for n in notes.values()),
        f"Notes in a header are texts by name; got {str(notes)[:60]} in {path}: copy "
        "the file again.",
    )
    entries = {name: _entry(name, fields, path) for name, fields in header.items()}
    reached, before = 0, "the header"
    for name, (_, _, begin, end) in sorted(
        entries.items(), key=lambda item: item[1][2:]
    ):
        require(
            begin == reached,
            f"Tensors lie one behind the other; `{name}` begins at byte {begin} of the "
            f"data and {before} ends at {reached} in {path}: this file was not written "
            "by safetensors.",
        )
        reached, before = end, f"`{name}`"
    held = size - 8 - length
    require(
        reached == held,
        f"A safetensors file is whole; {before} ends at byte {reached} of the data and "
        f"{path} has {held}: copy it again.",
    )
    return entries, notes


def _entry(name: str, fields: Any, path: Path) -> Entry:
    fields = fields if isinstance(fields, dict) else {}
    dtype, shape, span = (fields.get(k) for k in ("dtype", "shape", "data_offsets"))
    require(
        isinstance(dtype, str) and dtype in _DTYPES,
        f"A tensor has one of the types {sorted(_DTYPES)}; got {dtype!r} for `{name}` "
        f"in {path}: convert it.",
    )
    require(
        _are_counts(shape) and _are_counts(span) and len(span) == 2,
        "A tensor has a shape and the two bytes it lies between; got "
        f"{shape!r} and {span!r} for `{name}` in {path}: copy the file again.",
    )
    expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    require(
        span[1] - span[0] == expected,
        f"A tensor of shape {shape} and type {dtype} takes {expected} bytes; got "
        f"{span[1] - span[0]} for `{name}` in {path}: copy the file again.",
    )
    return _DTYPES[dtype], shape, span[0], span[1]


def _read_shards(index: Path) -> dict[str, Tensor]:
    files: Any = read_object(index).get("weight_map")
    require(
        isinstance(files, dict) and all(isinstance(f, str) for f in files.values()),
        "An index has a `weight_map` of tensors and their files; got "
        f"{type(files).__name__} in {index}: copy it again.",
    )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        require(
            Path(file).name == file and file.endswith(".safetensors"),
            f"An index names safetensors files beside it; got {file!r} in {index}: "
            "get the checkpoint from where it was published.",
        )
        expected = {name for name, place in files.items() if place == file}
        found = read_tensors(index.parent / file)
        require(
            found.keys() == expected,
            f"A file holds the tensors that {index.name} says; got "
            f"{sorted(found.keys() ^ expected)[:5]} in only one of the two for "
            f"{index.parent / file}: copy both again.",
        )
        tensors |= found
    return tensors


def _object(content: bytes, place: str, fix: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode(), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"JSON is whole; got {error} in {place}: {fix}.") from error
    require(
        isinstance(found, dict),
        f"JSON of a model is an object; got a {type(found).__name__} in {place}: "
        f"{fix}.",
    )
    return found


def _without_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        require(name not in found, f"the name {name!r} twice")
        found[name] = value
    return found


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
