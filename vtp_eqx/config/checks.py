"""Checks whose errors are one sentence: the constraint, the value, the fix."""

_LONGEST = 500  # characters of an error that another one quotes; ours


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def first_sentence(error: BaseException) -> str:
    """What an error says, for a sentence around it: one line, at most so long."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line = "".join(one if one.isprintable() else " " for one in line)
    return (line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...").rstrip(".")
