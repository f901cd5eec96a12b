"""Fields of configs that came when there were runs already."""

import dataclasses
from typing import Any


NEUTRAL = "neutral"


def later(neutral: Any) -> Any:
    """The default of a field that came when there were runs already.

    At `neutral`, which changes nothing in them, it is left out of `short_hash`, so that
    those runs are found again.
    """
    return dataclasses.field(default=neutral, metadata={NEUTRAL: neutral})
