"""The command line of a training: its options by preset, its errors as one sentence."""

from vtp_eqx.interrupts import exit_now, INTERRUPTED, SENTENCE

from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
import contextlib
import signal
import sys
import threading
from typing import TypeVar

import tyro

from vtp_eqx.runs.corruption import CorruptionError
from vtp_eqx.runs.log import warn
from vtp_eqx.runs.multihost import OtherProcessError
from vtp_eqx.runs.run_dir import FolderInUseError


Options = TypeVar("Options")

# What a user can mend beside wrong options and data: disks, folders, learning rates,
# broken hardware.
RUN_ERRORS = (
    OSError, FolderInUseError, FloatingPointError, OtherProcessError, CorruptionError,
    BrokenProcessPool,
)  # fmt: skip


def preset_options(
    presets: Mapping[str, tuple[str, Options]], description: str | None
) -> Options:
    """The options of the command line: those of a preset, with values on top.

    `presets` are words and options by name. A line that names none is of the first one,
    and then does so in `sys.argv` too.
    """
    if len(sys.argv) == 1 or sys.argv[1].startswith("-"):
        sys.argv.insert(1, next(iter(presets)))
    return tyro.extras.overridable_config_cli(
        {**presets}, description=description, config=(tyro.conf.AvoidSubcommands,)
    )


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


@contextlib.contextmanager
def interruptible(seconds: float) -> Iterator[None]:
    """A block that Ctrl-C leaves by a `KeyboardInterrupt`, so that files are closed.

    Pressed again, or where the block has not ended after so many seconds, it ends the
    process: threads may wait for what they had begun.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(seconds, exit_now)
    timer.daemon = True

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, exit_now)
        timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
