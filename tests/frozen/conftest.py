"""Weights by formula: networks too large to store are made anew by every test."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def formula() -> Callable[[tuple[int, ...], int], np.ndarray]:
    """`formula(shape, k)`: float64 in [-1, 1), the same on every machine.

    Element `i` in C order is `2 frac(43758.5453 sin(12.9898 i + 78.233 k)) - 1`.
    """

    def values(shape, k):
        count = np.arange(int(np.prod(shape)), dtype=np.float64)
        waves = np.sin(12.9898 * count + 78.233 * k) * 43758.5453
        return (2 * (waves - np.floor(waves)) - 1).reshape(shape)

    return values
