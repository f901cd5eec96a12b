"""A watchdog: writes the stacks of all threads when a run no longer advances."""

from collections import deque
from collections.abc import Iterator
import contextlib
import faulthandler
import os
from pathlib import Path
import statistics
import threading
import time

from vtp_eqx.runs.log import warn


STALLED = 75  # exit status of a run that its watchdog ended: EX_TEMPFAIL, try again
_MIN_SECONDS = 10.0  # seconds: below, a busy machine looks like a stalled one
_MIN_STEPS = 10  # steps that make a median
_FACTOR = 50.0  # times the median step, once there is one: a warning only


class Watchdog:
    """Checks from a thread of its own that `beat` is called. A context manager.

    A stall is reported once, with the stacks of all threads appended to `path`. With
    `ends`, one of so many `seconds` ends the process with the status `STALLED`: at
    once, because what hangs may hang an orderly end too; the next one continues from
    the last checkpoint.
    """

    def __init__(self, path: Path, seconds: float, *, ends: bool = False):
        self._path, self._seconds, self._ends = path, seconds, ends
        self._steps: deque[float] = deque(maxlen=101)
        self._last = time.monotonic()
        self._paused = True  # the first step compiles
        self._reported = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        self._thread.join()

    def beat(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        if not self._paused:
            self._steps.append(now - self._last)
        self._last, self._paused, self._reported = now, False, False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block that is no step: only `seconds` limits it."""
        self._paused, self._last = True, time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()

    def limit(self) -> float:
        """Seconds without a beat after which the run counts as stalled."""
        if self._paused or len(self._steps) < _MIN_STEPS:
            return self._seconds
        median = statistics.median(list(self._steps))
        return min(self._seconds, max(_FACTOR * median, _MIN_SECONDS))

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            waited, limit = time.monotonic() - self._last, self.limit()
            if self._ends and waited > self._seconds:
                self._report(waited, self._seconds, "ending the process")
                os._exit(STALLED)
            if waited > limit and not self._reported:
                self._reported = True
                self._report(waited, limit, "waiting on")

    def _report(self, waited: float, limit: float, then: str) -> None:
        text = (
            f"No step ended for {waited:.1f} s, and {limit:.1f} s count as a stall: "
            f"{then}; the stacks of all threads are in {self._path}."
        )
        with self._path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        warn(text)
