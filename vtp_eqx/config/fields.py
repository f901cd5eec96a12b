"""Config fields that were added when runs already existed."""

import dataclasses
from typing import Any


NEUTRAL = "neutral"
IS_LOCATION = "is a location"


def later(neutral: Any) -> Any:
    """The default of a field that was added when runs already existed.

    At `neutral`, which changes nothing in them, it is left out of `short_hash`, so that
    those runs are found again.
    """
    return dataclasses.field(default=neutral, metadata={NEUTRAL: neutral})


def location() -> Any:
    """A field that says where something lies, and not what it is.

    It is left out of `short_hash`: a copy elsewhere is the same.
    """
    return dataclasses.field(metadata={IS_LOCATION: True})
