"""Rows of a study's table that nothing was run for."""

from collections.abc import Callable
import dataclasses
from typing import Any

import pytest

from experiments import compare_convergence
from vtp_eqx.study.measure import at_budget, RunResult
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


@pytest.fixture(scope="session")
def converging(row: Made) -> Callable[..., list[Row]]:
    """`converging(seeds, distances)`: runs of the convergence study.

    `distances[method][seed]` are FD-scenes after 2, 4 and 6 steps.
    """

    def make(seeds, distances):
        rows = []
        for spec in compare_convergence.plan("smoke", seeds):
            values = distances[spec.method][spec.seed]
            named = dict(zip(spec.budgets, values, strict=True))
            own = {at_budget("FD-scenes", steps): named[steps] for steps in named}
            rights = {at_budget("class accuracy", steps): 0.5 for steps in named}
            rows.append(row(spec, values[-1], **own, **rights))
        return rows

    return make


def differing_fields(one: Any, other: Any) -> set[str]:
    """The names of the fields in which two configs differ."""
    return {
        field.name
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    }
