"""Rows of a study's table that nothing was run for."""

from collections.abc import Callable

import pytest

from vtp_eqx.study.measure import RunResult
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.table import COLUMNS, Row


Made = Callable[..., Row]


@pytest.fixture(scope="session")
def row() -> Made:
    """`row(spec, distance, **numbers)`: a finished run; other numbers are 0.5."""

    def make(spec: RunSpec, distance: float, **numbers: float) -> Row:
        names = [*(column.name for column in COLUMNS), "FD(train, validation)"]
        known = dict.fromkeys(names, 0.5) | {
            "FLOPs": 1e12,
            spec.kind.distance: distance,
        }
        result = RunResult(numbers=known | numbers, commit="c0ffee", date="2026-01-01")
        return Row(spec, result)

    return make
