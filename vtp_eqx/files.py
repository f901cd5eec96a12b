"""Files that appear whole or not at all, and folders with one writer at a time."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
from pathlib import Path
import secrets
import zipfile
import zlib


# What NumPy raises that reads an .npz which is missing, cut short, or another's.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write what becomes `path` when the block ends well.

    A reader sees the old file or the new one and never a part, whoever is killed
    meanwhile and however many write at once; an error leaves the old one in place. The
    folder is made where it is missing.
    """
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


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for the same folder.

    The folder is made where it is missing. A process that is killed leaves no lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
