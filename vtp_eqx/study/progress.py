"""The progress of a worker in a small file that the study's display reads."""

import dataclasses
import json
from pathlib import Path
import time

from vtp_eqx.files import atomic_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageProgress:
    """`done` of `total` steps of `stage`, which was begun `seconds` ago."""

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """The stage's time left at its pace so far, or `None` before the first step."""
        if self.done == 0:
            return None
        return self.seconds / self.done * (self.total - self.done)


class ProgressWriter:
    """Writes a worker's progress, at most twice a second."""

    def __init__(self, path: Path):
        self._path, self._stage = path, ""
        self._begun = self._written = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports `done` of `total` in `stage`; a new name begins a new stage."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._first = stage, now, done
        elif now - self._written < 0.5 and done < total:
            return
        self._written = now
        # A resumed stage is timed from where it resumed.
        progress = StageProgress(
            stage=stage,
            done=done - self._first,
            total=total - self._first,
            seconds=now - self._begun,
        )
        with atomic_path(self._path) as unfinished:
            unfinished.write_text(json.dumps(dataclasses.asdict(progress)))


def read_progress(path: Path) -> StageProgress | None:
    """What the worker last reported, or `None` where it has not yet."""
    try:
        return StageProgress(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
