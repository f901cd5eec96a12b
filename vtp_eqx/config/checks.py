"""Checks whose errors are one sentence: the constraint, the value, the fix."""

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


def printable(text: str) -> str:
    """`text` in one line: what no screen shows, as Python writes it (`\\n`, say)."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def first_sentence(error: BaseException) -> str:
    """What an error says, for a sentence around it: one line, at most so long."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line, most = printable(line), _LONGEST_QUOTED
    return (line if len(line) <= most else f"{line[:most]}...").rstrip(".")
