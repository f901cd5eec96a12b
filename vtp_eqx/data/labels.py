"""The class of an example: an integer from 0, or none."""

from collections.abc import Mapping
from typing import Any

import numpy as np


NO_LABEL = -1
LABEL_LIMIT = 2**31  # labels are kept as int32 in places


def label_of(example: Mapping[str, Any]) -> int:
    """The `label` of an example, or `NO_LABEL` where that is no integer from 0.

    A whole number is an integer however it is stored, also as an array of one value.
    What is missing, null, negative, one-hot or words is none: see `describe_label`.
    """
    value = np.asarray(example.get("label"))
    if value.size != 1 or value.dtype.kind not in "buif":
        return NO_LABEL
    number = value.item()
    is_label = 0 <= number < LABEL_LIMIT and number == int(number)
    return int(number) if is_label else NO_LABEL


def describe_label(example: Mapping[str, Any]) -> str:
    """What an example has for a label, in a few words."""
    if example.get("label") is None:
        return "null" if "label" in example else "no label"
    value = np.asarray(example["label"])
    if value.size == 1:
        return repr(value.item())
    is_one_hot = (
        value.ndim == 1
        and value.dtype.kind in "buif"
        and bool(np.isin(value, (0, 1)).all())
        and value.sum() == 1
    )
    return f"an array of shape {value.shape}" + (", one-hot" if is_one_hot else "")
