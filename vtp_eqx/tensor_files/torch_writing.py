"""Arrays as a file that `torch.load` reads, also with `weights_only=True`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
import zipfile

from jaxtyping import Float32
import numpy as np

from vtp_eqx.files import atomic_path


Floats = Float32[np.ndarray, "..."]


def write_torch_file(
    path: Path, content: Mapping[str, Floats] | Mapping[str, Mapping[str, Floats]]
) -> None:
    """Writes a dict of float32 tensors, or of dicts of them, as `torch.save` does.

    Whole or not at all. An array that stands in two dicts is stored once.
    """
    records: list[np.ndarray] = []
    program = b"\x80\x02" + _program(content, records) + b"."  # protocol 2
    with (
        atomic_path(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive,
    ):
        folder = path.stem
        archive.writestr(f"{folder}/data.pkl", program)
        archive.writestr(f"{folder}/byteorder", b"little")
        for record, array in enumerate(records):
            values = np.ascontiguousarray(array, "<f4").tobytes()
            archive.writestr(f"{folder}/data/{record}", values)
        archive.writestr(f"{folder}/version", b"3\n")


def _program(
    value: np.ndarray | Mapping[str, np.ndarray | Mapping], records: list[np.ndarray]
) -> bytes:
    """The pickle that puts `value` together; its arrays are added to `records`."""
    if isinstance(value, Mapping):
        items = (
            _text(name) + _program(inner, records) + b"s"
            for name, inner in value.items()
        )
        return b"}" + b"".join(items)
    known = [number for number, array in enumerate(records) if array is value]
    record = known[0] if known else len(records)
    if not known:
        records.append(value)
    strides = [stride // 4 for stride in np.empty(value.shape, "<f4").strides]
    parts = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        _text("storage") + b"ctorch\nFloatStorage\n",
        _text(str(record)) + _text("cpu") + _number(value.size) + b"tQ",
        _number(0) + _numbers(value.shape) + _numbers(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",  # no gradient, and no hooks
    )
    return b"".join(parts)


def _text(word: str) -> bytes:
    content = word.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def _number(count: int) -> bytes:
    return b"J" + count.to_bytes(4, "little", signed=True)


def _numbers(counts: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, counts)) + b"t"
