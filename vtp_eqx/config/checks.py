"""Checks whose errors are one sentence: the constraint, the value, the fix."""


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless `condition` holds."""
    if not condition:
        raise ValueError(message)
