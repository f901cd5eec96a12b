"""Ctrl-C ends a script in one sentence, and with the status that shells know.

Scripts import this module before all others, and so does the package: to import the
libraries takes seconds, in which Ctrl-C would end in their traceback. So it imports
next to nothing itself. It changes nothing for a program that is no script of this
repository.
"""

import os
import signal
import sys


INTERRUPTED = 130  # exit status: 128 + 2, that of the signal
SENTENCE = "Interrupted: the same command goes on from what was saved."
_SHOW_CURSOR = "\x1b[?25h"  # bars of progress hide it


def exit_now(*_: object) -> None:
    """Says so and ends the process, whatever its threads are at."""
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    os.write(2, f"{cursor}{SENTENCE}\n".encode())
    os._exit(INTERRUPTED)


def _is_script() -> bool:
    """Whether the program is a file of `experiments` beside this package.

    Or one of the processes that it has spawned.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    folder = os.path.dirname(os.path.realpath(sys.argv[0]))
    return folder == os.path.join(root, "experiments")


if _is_script():
    # A terminal tells all processes, of which the first speaks and ends the others.
    # What `multiprocessing` knows of its parent it does not know yet.
    is_spawned = "--multiprocessing-fork" in sys.orig_argv
    signal.signal(signal.SIGINT, signal.SIG_IGN if is_spawned else exit_now)
