"""The table of generation; other tables are tested with the report."""

import pytest

from experiments.scale_encoder import plan
from vtp_eqx.study.report import Study, write_report
from vtp_eqx.study.run_spec import RunPaths
from vtp_eqx.study.table import COLUMNS, generation_table, Row, runs_table


@pytest.fixture(scope="module")
def specs():
    return plan("smoke", [0])


def reported(rows, out):
    study = Study(
        name="study", title="t", question="q", plan=lambda scale, seeds: [],
        figure=lambda rows, path, title: None, summary=lambda rows: [],
    )  # fmt: skip
    write_report(study, rows, RunPaths(out), out, command="x", seconds=60.0)
    return (out / "report.md").read_text()


def test_other_numbers_of_generation_have_a_table_where_there_are_any(
    specs, row, tmp_path
):
    old, new = (
        row(specs[0], 1.0),
        row(specs[1], 1.0, MIND=7.25, **{"FD-classes": 8.75}),
    )
    assert generation_table([old, Row(specs[1], None)]) == ""
    assert "MIND" not in reported([old], tmp_path)
    known = {
        "FD per class": 2.0,
        "MIND(train, validation)": 3.5,
        "FD-classes(train, validation)": 0.5,
    }
    other = row(specs[0], 1.0, **known)
    table = generation_table([other, new])
    assert "precision" not in table  # which neither has
    real, _, own = (
        [cell.strip("| ") for cell in line.split(" | ")]
        for line in table.splitlines()[2:]
    )
    assert real[0] == "training scenes"
    assert own[0] == specs[1].method
    # What an earlier version did not measure is not made up.
    assert (real[3], own[3], real[4], own[4]) == ("3.5", "7.2", "0.5", "8.8")
    assert (real[5], own[5]) == ("-", "-")
    text = reported([other, new], tmp_path)
    assert table in text
    assert "**MIND**" in text


def test_a_row_of_an_earlier_version_stands_beside_newer_ones(specs, row):
    old, new = row(specs[0], 1.0), row(specs[1], 1.0, MIND=7.25)
    lines = runs_table([old, new], [COLUMNS[0]._replace(name="MIND")]).splitlines()
    assert [line.rstrip("|").split()[-1] for line in lines[2:]] == ["-", "7.2"]
