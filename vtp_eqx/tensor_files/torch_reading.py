"""Tensors from files of `torch.save`, of today and of before version 1.6.

The former are a zip with the bytes of the tensors and a program that says what they are
(`vtp_eqx.tensor_files.torch_program`). The latter, which many published networks still
have, are a few programs one after the other, of which the fourth says what was saved,
and then the bytes.
"""

from pathlib import Path
import reprlib
from typing import Any, BinaryIO
import zipfile

from jaxtyping import Shaped
import numpy as np

from vtp_eqx.config import first_sentence, printable, require
from vtp_eqx.tensor_files.torch_program import (
    built,
    numbers_of,
    state_dict,
    StoredTensor,
)


# What the older format begins with.
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class TorchFile:
    """A file of `torch.save`, open for reading: use it in a `with` statement.

    `content` is what was saved, with a `StoredTensor` for each tensor; `read` gives its
    numbers. So a checkpoint's optimizer state costs nothing. A `ValueError` names the
    file, and the byte of its program or the tensor, that cannot be read.
    """

    content: Any

    def __init__(self, path: Path):
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"A file of `torch.save` is a whole zip; got {path} ({error}): copy it "
                "again, or save it anew if it is older than torch 1.6."
            ) from error
        try:
            self._open()
        except BaseException:
            self._archive.close()
            raise

    def _open(self) -> None:
        suffix = "/data.pkl"
        programs = [n for n in self._archive.namelist() if n.endswith(suffix)]
        require(
            len(programs) == 1,
            f"A file of `torch.save` has one data.pkl; got {len(programs)} in "
            f"{self._path}: save the model again.",
        )
        self._folder = programs[0].removesuffix(suffix)
        order = f"{self._folder}/byteorder"
        if order in self._archive.namelist():
            require(
                self._record(order) == b"little",
                f"Numbers are stored little-endian; got {self._record(order)!r} in "
                f"{self._path}: save the model on another machine.",
            )
        self.content = built(self._record(programs[0]), self._path)

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors of a file that holds a state dict and nothing else."""
        return state_dict(self.content, self._path)

    def read(self, tensor: StoredTensor, name: str) -> Shaped[np.ndarray, "..."]:
        """The numbers of a tensor; `name` is what an error calls it."""
        content = self._record(f"{self._folder}/data/{tensor.record}")
        return numbers_of(tensor, content, f"`{name}` in {self._path}")

    def _record(self, name: str) -> bytes:
        try:
            stored = self._archive.getinfo(name).compress_type == zipfile.ZIP_STORED
            content = self._archive.read(name) if stored else None
        except (
            KeyError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError,
        ) as error:  # fmt: skip
            raise ValueError(
                f"A file of `torch.save` is whole; got {first_sentence(error)} for "
                f"the record {printable(name)} of {self._path}: copy it again."
            ) from error
        if content is None:  # a few compressed bytes may stand for any number
            raise ValueError(
                f"`torch.save` compresses nothing; the record {name} of {self._path} "
                "is compressed: save the model again."
            )
        return content


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
    # Never more than the program says, whatever the count in the file.
    count = min(size, max(tensor.record_size, 0))
    return file.read(count * np.dtype(tensor.dtype).itemsize)
