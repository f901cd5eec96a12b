"""Checks of the settings of a published checkpoint, whose values are anybody's."""

from typing import Any

from jaxtyping import Float
import numpy as np

from vtp_eqx.config import LARGEST_SIZE, require


def check_setting(
    name: str, value: Any, example: bool | str | float | int | None
) -> None:
    """A `ValueError` unless a setting is of the kind of `example`.

    True or false, a text, a positive number (an example with a decimal point) or a
    positive whole number, which may be 0 where the example is. `None` stands for a
    number or null.
    """
    if example is None:
        kind, fits = "a number or null", value is None or _is_real(value)
    elif isinstance(example, bool):
        kind, fits = "true or false", isinstance(value, bool)
    elif isinstance(example, str):
        kind, fits = "a text", isinstance(value, str)
    elif isinstance(example, float):
        kind, fits = "a positive number", _is_real(value) and value > 0
    else:
        kind = "a positive whole number" if example else "a whole number"
        fits = type(value) is int and min(example, 1) <= value <= LARGEST_SIZE
    require(
        fits, f"The published setting `{name}` is {kind}; got {value!r}: correct it."
    )


def read_statistic(
    name: str, values: Any, width: int
) -> Float[np.ndarray, " channels"]:
    """The numbers of a list in float32; a `ValueError` unless finite, one a channel."""
    is_list = isinstance(values, list) and all(
        type(value) in (int, float) and abs(value) < np.finfo(np.float32).max
        for value in values
    )
    require(
        is_list and len(values) == width,
        f"`{name}` is one finite number for each of {width} channels; got "
        f"{str(values)[:60]}: measure the latents again.",
    )
    return np.asarray(values, np.float32)


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_SIZE
