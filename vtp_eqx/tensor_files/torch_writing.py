"""Arrays as a file that `torch.load` reads, also with `weights_only=True`."""

from collections.abc import Iterable, Mapping
import io
from pathlib import Path
import zipfile

from jaxtyping import Float32
import numpy as np

from vtp_eqx.files import atomic_path


def write_torch_file(
    path: Path, arrays: Mapping[str, Float32[np.ndarray, "..."]]
) -> None:
    """Writes a dict of float32 tensors, as `torch.save` does; whole or not at all."""
    with (
        atomic_path(path) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive,
    ):
        folder = path.stem
        archive.writestr(f"{folder}/data.pkl", _program(arrays))
        archive.writestr(f"{folder}/byteorder", b"little")
        for record, array in enumerate(arrays.values()):
            content = np.ascontiguousarray(array, "<f4").tobytes()
            archive.writestr(f"{folder}/data/{record}", content)
        archive.writestr(f"{folder}/version", b"3\n")


def _program(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle that puts the records of a file together."""
    program = io.BytesIO()
    write = program.write
    write(b"\x80\x02}")  # protocol 2, an empty dict
    for record, (name, array) in enumerate(arrays.items()):
        strides = [stride // 4 for stride in np.empty(array.shape, "<f4").strides]
        write(_text(name))
        write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        write(_text("storage") + b"ctorch\nFloatStorage\n")
        write(_text(str(record)) + _text("cpu") + _number(array.size) + b"tQ")
        write(_number(0) + _numbers(array.shape) + _numbers(strides))
        # No gradient, and no hooks.
        write(b"\x89ccollections\nOrderedDict\n)RtRs")
    write(b".")
    return program.getvalue()


def _text(word: str) -> bytes:
    content = word.encode()
    return b"X" + len(content).to_bytes(4, "little") + content


def _number(count: int) -> bytes:
    return b"J" + count.to_bytes(4, "little", signed=True)


def _numbers(counts: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, counts)) + b"t"
