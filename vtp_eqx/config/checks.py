"""Checks whose errors are one sentence: the constraint, the value, the fix."""

from collections.abc import Callable, Mapping
from typing import Literal


# Ours: characters of an error, and of one that another quotes. Names and values that
# come from files may be of any length.
_LONGEST, _LONGEST_QUOTED = 1200, 500


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds.

    Whatever `message` quotes, the error is one line that a screen can show; of a very
    long one the middle is left out.
    """
    if not condition:
        half = _LONGEST // 2
        line = printable(message)
        is_long = len(line) > _LONGEST
        raise ValueError(f"{line[:half]} ... {line[-half:]}" if is_long else line)


Law = Literal["positive", "0 or more", "1 or more", "in [0, 1]", "in [0, 1)"]
_LAWS: Mapping[Law, Callable[[float], bool]] = {
    "positive": lambda number: number > 0,
    "0 or more": lambda number: number >= 0,
    "1 or more": lambda number: number >= 1,
    "in [0, 1]": lambda number: 0 <= number <= 1,
    "in [0, 1)": lambda number: 0 <= number < 1,
}


def require_fields(config: object, law: Law, *names: str, of: str = "") -> None:
    """Raises `ValueError` where a field of a config, or a number in it, breaks `law`.

    Fields that are `None` pass. `of` is what the config is a field of, in the error.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            require(
                number is None or _LAWS[law](number),
                f"`{of}{name}` ({value}) must be {law}: change it.",
            )


def require_rising(config: object, *names: str) -> None:
    """Raises `ValueError` where a range, `(low, high)`, of a config falls."""
    for name in names:
        low, high = getattr(config, name)
        require(
            low <= high,
            f"`{name}` ({low}, {high}) must not fall: exchange the two numbers.",
        )


def printable(text: str) -> str:
    """`text` in one line: what no screen shows, as Python writes it (`\\n`, say)."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def first_sentence(error: BaseException) -> str:
    """What an error says, for a sentence around it: one line, at most so long."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line, most = printable(line), _LONGEST_QUOTED
    return (line if len(line) <= most else f"{line[:most]}...").rstrip(".")
