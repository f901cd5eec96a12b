"""How a script ends where its options, its data or its machine are at fault."""

from collections.abc import Iterator
import contextlib

from vtp_eqx.runs.multihost import OtherProcessError
from vtp_eqx.runs.run_dir import FolderInUseError


# What a user can mend beside wrong options and data: disks, folders, learning rates.
RUN_ERRORS = (OSError, FolderInUseError, FloatingPointError, OtherProcessError)


@contextlib.contextmanager
def exit_with_message(*errors: type[Exception]) -> Iterator[None]:
    """A block in which `errors` end the program with their sentence, exit status 1."""
    try:
        yield
    except errors as error:
        raise SystemExit(str(error)) from error
