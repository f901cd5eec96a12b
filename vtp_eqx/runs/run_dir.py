"""The folder of a run: its lock, its config, and the disk space it needs."""

from collections.abc import Collection, Iterator
import contextlib
import dataclasses
import datetime
import errno
import fcntl
import json
from operator import attrgetter
import os
from pathlib import Path
import shutil
import socket
import tempfile
from typing import Any

from vtp_eqx.config import changed_fields, from_dict, require
from vtp_eqx.files import require_local, write_text
from vtp_eqx.runs.multihost import all_equal, raise_on_all


LOCK = "run.lock"
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
DATA_FILE = "data.txt"
# How a step fits onto its devices, and how it is checked: what a run that is continued
# may change.
FITTING = (
    "accumulate", "attention", "precision", "recompute_every", "remat", "sharding",
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class FolderInUseError(RuntimeError):
    """Another process writes the folder."""


class DiskSpaceError(OSError):
    """A folder cannot hold what a run has to write."""


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process, or raises `FolderInUseError` where another does.

    The lock is the system's: one of a process that was killed is free at once, also
    `kill -9`. The file says who holds it: process, host and since when.
    """
    require_local(folder, "out")
    with _not_writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    with file as lock:
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


def write_config(
    folder: Path, config: Any, options: Any = None, data: str | None = None
) -> None:
    """Writes every field of a run's config to its folder, and a script's options.

    `data` is the identity of its data, for `check_data_unchanged`.
    """
    fields = read_config(folder)
    if options is not None:
        fields |= dataclasses.asdict(options)
    fields["config"] = dataclasses.asdict(config)
    texts = {CONFIG: json.dumps(fields, indent=1, sort_keys=True), DATA_FILE: data}
    for name, text in texts.items():
        if text is not None:
            write_text(folder / name, text + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The config that `write_config` wrote, as fields, and the options by name.

    Empty where there is no such file, as in runs of older versions; a `ValueError`
    where it is that of something else.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    require(
        is_run(folder),
        f"`folder` ({folder}) has a {CONFIG} that is damaged or that of a model: move "
        "what was saved there to a folder of its own, or choose another one.",
    )
    return json.loads(path.read_text())


def is_run(folder: Path) -> bool:
    """Whether `folder` has the config of a run, and not none or that of a model."""
    try:
        fields = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    is_object = isinstance(fields, dict) and "format" not in fields
    return is_object and isinstance(fields.get("config"), dict)


def check_config_unchanged(
    folder: Path, config: Any, options: Any = None, fixed: Collection[str] = ()
) -> None:
    """Raises `ValueError` where the run in `folder` was begun with another config.

    `options` are a script's, of which the `fixed` ones may not change either. Fields
    that the file lacks had their defaults, and those of `FITTING` may change. A folder
    without the file passes.
    """
    fields = read_config(folder)
    if not fields:
        return
    try:
        begun = from_dict(type(config), fields["config"])
        begun_options = None if options is None else from_dict(type(options), fields)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`folder` ({folder}) has a run whose config is no {type(config).__name__} "
            "of this version: choose another folder, or the version that began it."
        ) from error
    names = changed_fields(begun, config)
    pairs = {
        f"config.{name}": (attrgetter(name)(config), attrgetter(name)(begun))
        for name in names
        if name.split(".")[-1] not in FITTING
    } | {name: (getattr(options, name), getattr(begun_options, name)) for name in fixed}
    changed = [
        f"`{name}` ({_short(now)}, was {_short(before)})"
        for name, (now, before) in pairs.items()
        if now != before
    ]
    require(
        not changed,
        f"{', '.join(changed)} may not differ from what the run in {folder} was begun "
        "with: restore the old values, or choose another folder.",
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
    """Raises `DiskSpaceError` where `folder` has fewer than `needed` bytes free.

    The folder is made where it is missing.
    """
    with _not_writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskSpaceError(
            errno.ENOSPC,
            f"A run needs {needed / 1e9:.3g} GB of free disk; got {free / 1e9:.3g} GB "
            f"at {folder}: free some, or choose another folder.",
        )


@contextlib.contextmanager
def _not_writable(folder: Path) -> Iterator[None]:
    """A block that begins to write to `folder`; a `DiskSpaceError` where it cannot."""
    try:
        yield
    except OSError as error:
        raise DiskSpaceError(
            error.errno,
            f"A run needs a folder that it can write to; got {folder} "
            f"({error.strerror}): choose another one.",
        ) from error


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns the errors of a full or read-only disk into a `DiskSpaceError`.

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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return (
            f"process {holder['pid']} on host {holder['host']} writes since "
            f"{holder['since']}"
        )
    except (OSError, ValueError, LookupError):
        return "another process writes"  # it has only just begun
