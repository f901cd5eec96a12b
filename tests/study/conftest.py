"""Rows of a study's table that nothing was run for."""

from collections.abc import Callable

import pytest

from vtp_eqx.study.measure import Result
from vtp_eqx.study.point import Point
from vtp_eqx.study.table import COLUMNS, Row


Made = Callable[..., Row]


@pytest.fixture(scope="session")
def row() -> Made:
    """`row(point, distance, **numbers)`: a finished point; other numbers are 0.5."""

    def make(point: Point, distance: float, **numbers: float) -> Row:
        names = [*(column.name for column in COLUMNS), "FD-scenes floor", "PSNR of PCA"]
        known = dict.fromkeys([*names, "probe latents mean"], 0.5) | {"FLOPs": 1e12}
        made = {**known, "FD-scenes": distance, **numbers}
        return Row(point, Result(numbers=made, commit="c0ffee", date="2026-01-01"))

    return make
