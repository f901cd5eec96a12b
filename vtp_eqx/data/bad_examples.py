"""The log of examples that were skipped or repaired: written, and limited."""

from collections import deque
from collections.abc import Iterator, Sequence
import dataclasses
import json
from pathlib import Path

from vtp_eqx.config import require


_RATE_WINDOW = 4096  # ours: examples over which the rate is taken
_MIN_EXAMPLES = 256  # ours: fewer say nothing about a rate


@dataclasses.dataclass(frozen=True)
class BadExample:
    """One example that was skipped, or repaired and used."""

    step: int
    position: int  # in the batch of all processes
    row: int
    name: str
    reason: str
    skipped: bool


class BadExampleLog:
    """The bad examples of a run in the order of its steps, in a file of a JSON a line.

    Opening the file removes entries of steps from `start_step` on: a run that continues
    there writes them again, and its rates are those of a run that was never stopped.
    Every process of a run has a file of its own.
    """

    def __init__(self, path: Path, *, start_step: int = 0, max_skip_rate: float = 0.1):
        require(
            0 <= max_skip_rate <= 1,
            f"`max_skip_rate` ({max_skip_rate}) must be a share of the examples: take "
            "one between 0 and 1.",
        )
        self.max_skip_rate = max_skip_rate
        self._recent: deque[BadExample] = deque()  # those that were skipped
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        whole = 0
        for bad, end in _lines(path):
            if bad.step >= start_step:
                break
            # A step has an example or more.
            if bad.skipped and bad.step >= start_step - _RATE_WINDOW:
                self._recent.append(bad)
            whole = end
        self._file.truncate(whole)

    def add(
        self, step: int, num_examples: int, bad_examples: Sequence[BadExample]
    ) -> None:
        """Writes the bad examples of one step of this process.

        Raises `ValueError` where more than `max_skip_rate` of the last 4096 examples
        were skipped (or of all, where 256 to 4096 were read).
        """
        for bad in bad_examples:
            line = json.dumps(dataclasses.asdict(bad)) + "\n"
            self._file.write(line.encode())
        self._file.flush()
        self._recent += [bad for bad in bad_examples if bad.skipped]
        steps = min(step + 1, -(-_RATE_WINDOW // num_examples))
        while self._recent and self._recent[0].step <= step - steps:
            self._recent.popleft()
        read, skipped = steps * num_examples, len(self._recent)
        if read >= _MIN_EXAMPLES and skipped > self.max_skip_rate * read:
            last = self._recent[-1]
            raise ValueError(
                f"{skipped} of the last {read} examples up to step {step} were "
                f"unreadable, the last {last.name} ({last.reason}), which exceeds "
                f"`max_skip_rate` ({self.max_skip_rate:.1%}): repair the data, or "
                "raise the limit."
            )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_bad_examples(path: Path) -> Iterator[BadExample]:
    """The bad examples in a file one by one, up to a line that a kill cut short."""
    return (bad for bad, _ in _lines(path))


def _lines(path: Path) -> Iterator[tuple[BadExample, int]]:
    """Each bad example, and where in the file its line ends."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                fields = json.loads(line)
                if "place" in fields:  # as `position` was called before
                    fields["position"] = fields.pop("place")
                bad = BadExample(**fields)
            except (ValueError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield bad, end
