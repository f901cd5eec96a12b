"""Tensors by name, from safetensors files: each one whole and sound, or an error.

A large model comes as several files, and an index that says which tensor is in which.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import json
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
import ml_dtypes  # safetensors reads bfloat16 where this is imported
import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save_file

from vtp_eqx.config import first_sentence, require
from vtp_eqx.files import atomic_path, write_text


Tensor = Shaped[np.ndarray, "..."]

CONFIG_FILE = "config.json"
PUBLISHED_WEIGHTS = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
PUBLISHED_INDEX = f"model{INDEX_SUFFIX}"
_EXACT_IN_FLOAT32 = (np.float32, np.float16, ml_dtypes.bfloat16)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, or of the files that an index names.

    Tensors keep the type they are stored in. A file that is missing is a
    `FileNotFoundError`; one that is cut short or contradicts itself is a `ValueError`
    that names the file and what is wrong in it.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    with _open(path) as file:
        tensors: dict[str, Tensor] = {}
        for name in file.offset_keys():
            try:
                tensors[name] = file.get_tensor(name)
            except (AttributeError, TypeError) as error:
                dtype = file.get_slice(name).get_dtype()
                raise ValueError(
                    f"A tensor has a type of NumPy; got {dtype} for `{name}` in "
                    f"{path}: convert it."
                ) from error
    return tensors


def read_notes(path: Path) -> dict[str, str]:
    """The notes in a safetensors file's header, beside what describes its tensors."""
    with _open(path) as file:
        return file.metadata() or {}


def published_weights(folder: Path) -> Path:
    """The weights of a published checkpoint: its one file, or the index of several."""
    index = folder / PUBLISHED_INDEX
    whole = folder / PUBLISHED_WEIGHTS
    return index if index.is_file() and not whole.is_file() else whole


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file, with `notes` in its header; whole or not at all."""
    # Contiguous, because safetensors writes the buffer of a view as it lies.
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with atomic_path(path) as unfinished:
        save_file(whole, unfinished, notes)


def write_model(
    folder: Path,
    weights_file: str,
    tensors: Mapping[str, Tensor],
    description: dict[str, Any],
) -> None:
    """Writes a safetensors file and then `config.json`, each whole or not at all."""
    write_tensors(folder / weights_file, tensors, {"format": "pt"})
    write_config(folder, description)


def write_config(folder: Path, description: dict[str, Any]) -> None:
    """Writes the `config.json` of weights."""
    write_text(folder / CONFIG_FILE, json.dumps(description, indent=1, sort_keys=True))


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


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """A `ValueError` unless `arrays` has the names and shapes of `expected`."""
    require(
        arrays.keys() == expected.keys(),
        "A checkpoint has exactly the tensors that its config describes; got "
        f"{_list_names(arrays.keys() - expected.keys())} too many and "
        f"{_list_names(expected.keys() - arrays.keys())} missing: check that config "
        "and weights belong together.",
    )
    wrong = [
        f"{name} {tuple(arrays[name].shape)} for {tuple(array.shape)}"
        for name, array in expected.items()
        if arrays[name].shape != array.shape
    ]
    require(
        not wrong,
        "Tensors have the shapes that their config describes; got "
        f"{_list_names(wrong)}: check that config and weights belong together.",
    )


def check_depth(depth: int, arrays: Mapping[str, Any]) -> None:
    """A `ValueError` if `depth` blocks are far more than `arrays` could be of.

    Of so many, the missing tensors would not fit into memory, even as names.
    """
    require(
        depth <= max(len(arrays), 1000),
        "A checkpoint has tensors for every block that its config describes; got "
        f"{len(arrays)} tensors for {depth} blocks: check that config and weights "
        "belong together.",
    )


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


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A safetensors file whose header is sound."""
    require_file(path)
    try:
        # Not mapped into memory: a file that is cut meanwhile would end the process.
        with safe_open(path, "np", backend="pread") as file:
            # Of two tensors of one name the library would take the last.
            with path.open("rb") as header:
                length = int.from_bytes(header.read(8), "little")
                _object(
                    header.read(length), f"the header of {path}", "copy the file again"
                )
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"A safetensors file is whole; got {path} of {path.stat().st_size} bytes "
            f"({first_sentence(error)}): copy it again."
        ) from error


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
        raise ValueError(
            f"JSON is whole; got {first_sentence(error)} in {place}: {fix}."
        ) from error
    require(
        isinstance(found, dict),
        f"JSON of a model is an object; got a {type(found).__name__} in {place}: "
        f"{fix}.",
    )
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} twice")
    return found


def _list_names(names: Iterable[str]) -> str:
    ordered, limit = sorted(names), 5
    more = [f"and {len(ordered) - limit} more"] if len(ordered) > limit else []
    return f"[{', '.join([*ordered[:limit], *more])}]"
