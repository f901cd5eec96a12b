"""Statistics of latents in the settings of a published checkpoint."""

from typing import Any

from jaxtyping import Float
import numpy as np

from vtp_eqx.config import require


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
