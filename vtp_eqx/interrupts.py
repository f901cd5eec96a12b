"""Ctrl-C ends a script in one sentence, and with the status that shells know.

Scripts import this module before all others, and so does the package: to import the
libraries takes seconds, in which Ctrl-C would end in their traceback. It changes
nothing for a program that is no script of this repository.
"""

from collections.abc import Iterator
import contextlib
import multiprocessing
import os
from pathlib import Path
import signal
import sys
import threading


INTERRUPTED = 130  # exit status: 128 + 2, that of the signal
SENTENCE = "Interrupted: the same command goes on from what was saved."
_SHOW_CURSOR = "\x1b[?25h"  # bars of progress hide it


@contextlib.contextmanager
def interruptible(seconds: float) -> Iterator[None]:
    """A block that Ctrl-C leaves by a `KeyboardInterrupt`, so that files are closed.

    Pressed again, or where the block has not ended after so many seconds, it ends the
    process: threads may wait for what they had begun.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(seconds, _exit_now)
    timer.daemon = True

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, _exit_now)
        timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        timer.cancel()
        # Where it was not set by Python it cannot be set back.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _exit_now(*_: object) -> None:
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    os.write(2, f"{cursor}{SENTENCE}\n".encode())
    os._exit(INTERRUPTED)


def _is_script() -> bool:
    """Whether the program is a file of `experiments` beside this package.

    Or one of the processes that it has spawned.
    """
    scripts = Path(__file__).resolve().parents[1] / "experiments"
    return Path(sys.argv[0]).resolve().parent == scripts


if _is_script():
    # A terminal tells all processes, of which the first speaks for all.
    is_spawned = multiprocessing.parent_process() is not None
    signal.signal(signal.SIGINT, signal.SIG_DFL if is_spawned else _exit_now)
