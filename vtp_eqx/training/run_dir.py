"""The folder of a run: room to write, and one writer at a time."""

from collections.abc import Callable, Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import os
from pathlib import Path
import shutil
import socket
from typing import Any

from vtp_eqx.config import as_json, changed_fields, from_dict, require
from vtp_eqx.files import atomic_path
from vtp_eqx.training.multihost import all_equal, raise_on_all


LOCK = "run.lock"
CONFIG_FILE = "config.json"
DATA_FILE = "data.txt"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class FolderInUseError(RuntimeError):
    """Another process writes the folder."""


class DiskSpaceError(OSError):
    """A folder cannot take what a run has to write."""


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process, or raises `FolderInUseError` where another does.

    The lock is the system's: one of a process that was killed is free at once, also
    `kill -9`. The file says who holds it: process, host and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"A run's folder has one writer at a time; got {folder}, in which "
                f"{_holder(folder / LOCK)}: wait for it, stop it, or choose another "
                "folder."
            ) from error
        lock.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        lock.write(json.dumps(holder) + "\n")
        lock.flush()
        yield


def write_config(folder: Path, options: Any, data: str) -> None:
    """Writes down what a run was begun with: its options, and the identity of its data.

    That is what the two checks below compare with.
    """
    for name, text in ((CONFIG_FILE, as_json(options)), (DATA_FILE, data)):
        with atomic_path(folder / name) as unfinished:
            unfinished.write_text(text + "\n")


def check_config_unchanged(
    folder: Path, options: Any, is_fixed: Callable[[str], bool]
) -> None:
    """Raises `ValueError` where a run was begun with other values of fixed fields.

    Fields that its file lacks had their defaults. `is_fixed` is asked of names such as
    `config.optimizer.b1`.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return
    begun = from_dict(type(options), json.loads(path.read_text()))
    changed = [name for name in changed_fields(begun, options) if is_fixed(name)]
    if changed:
        raise ValueError(
            f"A run continues as it was begun; got another {', '.join(changed)} than "
            f"in {path}: choose another folder, or the old values."
        )


def check_data_unchanged(folder: Path, data: str) -> None:
    """Raises `ValueError` where a run was begun on other data, or processes see others.

    `data` is its identity. All processes call this.
    """
    require(
        all_equal(data),
        f"All processes of a run read the same data; got {data!r} here and others "
        "elsewhere: copy the same data to all hosts.",
    )
    path = folder / DATA_FILE
    with raise_on_all():
        begun = path.read_text().strip() if path.exists() else data
        require(
            begun == data,
            f"A run continues on the data it was begun on; got {data!r}, and {begun!r} "
            f"in {path}: choose another folder, or the old data.",
        )


def check_disk_space(folder: Path, needed: float) -> None:
    """Raises `DiskSpaceError` where `folder` cannot take `needed` bytes more, or none.

    The folder is made where it is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".writable.{os.getpid()}"
        trial.write_text("")
        trial.unlink()
    except OSError as error:
        raise DiskSpaceError(
            error.errno,
            f"A run needs a folder that it can write to; got {folder} "
            f"({error.strerror}): choose another one.",
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskSpaceError(
            errno.ENOSPC,
            f"A run needs {needed / 1e9:.3g} GB of free disk; got {free / 1e9:.3g} GB "
            f"at {folder}: free some, or choose another folder.",
        )


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what libraries say of a full or shut disk into a `DiskSpaceError`.

    Checkpoints are written through libraries whose errors have types of their own, so
    that the text decides there.
    """
    try:
        yield
    except DiskSpaceError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        text = str(error)
        full = number in _FULL or any(os.strerror(code) in text for code in _FULL)
        is_denied = number in _NOT_WRITABLE and isinstance(error, OSError)
        if not (full or is_denied):
            raise
        what = "a full disk" if full else f"no right to write ({text})"
        raise DiskSpaceError(
            number or errno.ENOSPC,
            f"A run needs room to write; got {what} at {folder}: make room and run the "
            "same command again, which continues from what it has saved.",
        ) from error


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return (
            f"process {holder['pid']} on host {holder['host']} writes since "
            f"{holder['since']}"
        )
    except (OSError, ValueError, LookupError):
        return "another process writes"  # it has only just begun
