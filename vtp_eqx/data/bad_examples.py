"""What was wrong with examples of a run: counted, logged by name, and limited."""

from collections import deque
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
from pathlib import Path

from vtp_eqx.config import require


_RATE_WINDOW = 4096  # ours: examples over which the rate is taken
_MIN_EXAMPLES = 256  # ours: fewer say nothing about a rate


@dataclasses.dataclass(frozen=True)
class BadExample:
    """One example that was not as it should be: left out, or mended and used."""

    step: int
    place: int  # in the batch of all processes
    row: int
    name: str
    reason: str
    skipped: bool


class BadExampleLog:
    """The remarks on a run in the order of its steps, in a file of a JSON a line.

    Remarks on steps from `start_step` on are taken out of the file when it is opened: a
    run that continues there makes them again, and counts are those of a run that was
    never stopped. Every process of a run has a file of its own.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        start_step: int = 0,
        max_skip_rate: float = 0.1,
    ):
        """Without a `path`, remarks are counted and not kept."""
        require(
            0 <= max_skip_rate <= 1,
            f"`max_skip_rate` is a share of the examples; got {max_skip_rate}: "
            "take one between 0 and 1.",
        )
        self.path, self.max_skip_rate = path, max_skip_rate
        self.num_skipped = 0
        self._recent: deque[BadExample] = deque()  # those that were skipped
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._take_up(start_step)

    def add(self, step: int, num_examples: int, remarks: Sequence[BadExample]) -> None:
        """Takes the remarks on the examples of one step of this process.

        Raises `ValueError` where more than `max_skip_rate` of the last 4096 examples
        were skipped (or of all, where 256 to 4096 were read).
        """
        for remark in remarks:
            self._count(remark)
            if self._file is not None:
                line = json.dumps(dataclasses.asdict(remark)) + "\n"
                self._file.write(line.encode())
        if self._file is not None and remarks:
            self._file.flush()
        steps = min(step + 1, -(-_RATE_WINDOW // num_examples))
        while self._recent and self._recent[0].step <= step - steps:
            self._recent.popleft()
        read, skipped = steps * num_examples, len(self._recent)
        if read >= _MIN_EXAMPLES and skipped > self.max_skip_rate * read:
            last = self._recent[-1]
            raise ValueError(
                f"At most {self.max_skip_rate:.1%} of the examples may be unreadable; "
                f"got {skipped} of the last {read} up to step {step}, lately "
                f"{last.name} ({last.reason}): repair the data, or raise the limit."
            )

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _count(self, remark: BadExample) -> None:
        if remark.skipped:
            self.num_skipped += 1
            self._recent.append(remark)

    def _take_up(self, start_step: int) -> None:
        assert self.path is not None
        assert self._file is not None
        whole = 0
        for remark, end in _lines(self.path):
            if remark.step >= start_step:
                break
            self._count(remark)
            while self._recent and self._recent[0].step < start_step - _RATE_WINDOW:
                self._recent.popleft()
            whole = end
        os.ftruncate(self._file.fileno(), whole)
        self._file.seek(whole)


def read_bad_examples(path: Path) -> Iterator[BadExample]:
    """The remarks in a file one by one, up to a line that a kill has torn."""
    return (remark for remark, _ in _lines(path))


def _lines(path: Path) -> Iterator[tuple[BadExample, int]]:
    """Each remark, and where in the file its line ends."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                remark = BadExample(**json.loads(line))
            except (ValueError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield remark, end
