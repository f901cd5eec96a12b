"""Atomic writes, a folder for one process at a time, and paths on this machine.

For what a file holds, whatever its name, see `vtp_eqx.file_kinds`.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import os
from pathlib import Path
import re
import secrets

import numpy as np
from numpy.typing import ArrayLike


# `gs://`, `s3://`, `https://`, ...; `Path` leaves one slash of two. A split of a
# prepared data set (`FOLDER:train`) has none, and a drive (`C:/`) is one letter.
_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(.*)", re.DOTALL)


def require_local(path: str | os.PathLike[str], argument: str) -> None:
    """Raises `ValueError`, naming `argument`, where `path` is an address elsewhere.

    Without this, `gs://bucket/run` would be a folder `gs:` here.
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    if found is None:
        return
    scheme, rest = found.groups()
    address = f"{path}" if "://" in f"{path}" else f"{scheme}://{rest}"
    fix = "mount or download it, and name that folder"
    if scheme.lower() == "file":
        fix = f"write it as /{rest.lstrip('/')}"
    raise ValueError(
        f"`{argument}` ({address}) must be a path on this machine, as nothing "
        f"is read from or written to another place: {fix}."
    )


def require_local_fields(options: object, *, words: tuple[str, ...] = ()) -> None:
    """`require_local` for all fields of a dataclass but `words`, also those in tuples.

    For the options of a command, before it reads or writes anything.
    """
    for field in dataclasses.fields(options):  # pyright: ignore[reportArgumentType]
        value = getattr(options, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str | os.PathLike) and field.name not in words:
                require_local(one, field.name)


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/vtp_eqx`, or else `~/.cache/vtp_eqx`.

    `None` without either: a container's user may have no home and no entry in passwd.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache") / "vtp_eqx"
    except RuntimeError:
        return None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends well.

    A reader sees the old file or the new one and never a part, whoever is killed
    meanwhile and however many write at once; an error leaves the old one in place. The
    folder is made where it is missing.
    """
    require_local(path, "path")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process number, which on a shared disk another machine may have as well.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield unfinished
        # On disk before it is named: a name must not stand for less after a crash.
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def delete_unfinished(folder: Path, *patterns: str) -> None:
    """Deletes what is left of files such as `*.png` whose writer was killed.

    For a folder that no other process writes such files to.
    """
    for pattern in patterns:
        for path in folder.glob(f".{pattern}.????????"):
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_npz(path: str | os.PathLike[str], **arrays: ArrayLike) -> None:
    """Writes arrays by name, whole or not; `file_kinds.open_npz` reads them."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for the same folder.

    The folder is made where it is missing. A process that is killed leaves no lock.
    """
    require_local(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
