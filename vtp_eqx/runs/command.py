"""How a script ends where its options, its data or its machine are at fault."""

from vtp_eqx.interrupts import INTERRUPTED, interruptible, SENTENCE

from collections.abc import Iterator
import contextlib

from vtp_eqx.runs.log import warn
from vtp_eqx.runs.multihost import OtherProcessError
from vtp_eqx.runs.run_dir import FolderInUseError


# What a user can mend beside wrong options and data: disks, folders, learning rates.
RUN_ERRORS = (OSError, FolderInUseError, FloatingPointError, OtherProcessError)


@contextlib.contextmanager
def exit_with_message(
    *errors: type[Exception], seconds: float = 10.0
) -> Iterator[None]:
    """A block in which `errors` end the program with their sentence, exit status 1.

    So does Ctrl-C, with the status 130, at most so many `seconds` after.
    """
    try:
        with interruptible(seconds):
            yield
    except errors as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        warn(SENTENCE)
        raise SystemExit(INTERRUPTED) from None
