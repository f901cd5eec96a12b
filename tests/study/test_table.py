"""The table of generation, and which numbers count; else see `test_report`."""

import dataclasses
from pathlib import Path

import pytest

from experiments import bisect_recipe
from experiments.scale_encoder import plan
from vtp_eqx.frozen.scene_network import scene_network_hash, shipped
from vtp_eqx.study.report import rows_of, Study, write_report
from vtp_eqx.study.run_spec import RunPaths, spec_hash
from vtp_eqx.study.summary import baseline_sentences
from vtp_eqx.study.table import (
    COLUMNS,
    generation_table,
    real_distances,
    Row,
    runs_table,
)


@pytest.fixture(scope="module")
def specs():
    return plan("smoke", [0])


def reported(rows, out, question="q"):
    study = Study(
        name="study", title="t", question=question, plan=lambda scale, seeds: [],
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


def test_a_report_has_the_question_of_a_script_without_its_commands(
    specs, row, tmp_path
):
    text = reported([row(specs[0], 1.0)], tmp_path, bisect_recipe.__doc__)
    for sentence in ("Which part of the recipe decides", "The recipe of the studies"):
        assert text.count(sentence) == 1
    assert "--smoke" not in text.partition("## Means")[0]


def test_fd_classes_of_another_network_do_not_count(specs, row, tmp_path):
    paths, spec = RunPaths(tmp_path), specs[0]
    names = ("FD-classes", "FD-classes @6", "FD-classes(train, validation)")
    own = scene_network_hash(shipped(32, "class"))
    for class_hash, count in ((own, len(names)), ("another", 0)):
        result = row(spec, 2.0, **dict.fromkeys(names, 1.0)).result
        result = dataclasses.replace(
            result, feature_hash=scene_network_hash(), class_hash=class_hash
        )
        result.write(paths.result(spec))
        [of_folder] = rows_of([spec], paths)
        [of_report] = rows_of([spec], RunPaths(Path("none")), {spec_hash(spec): result})
        for found in (of_folder.result, of_report.result):
            assert sum(name in found.numbers for name in names) == count
            assert found.numbers["FD-scenes"] == 2.0


def test_floors_of_several_data_are_not_averaged(row):
    specs = [spec for spec in bisect_recipe.plan("laptop", [0]) if spec.method == "VTP"]
    specs += [dataclasses.replace(spec, method="AE") for spec in specs]
    rows = [
        row(spec, 5.0, **{"FD(train, validation)": 0.5 + (spec.data.difficulty == 0)})
        for spec in specs
    ]
    assert "real scenes have 0.5 to 1.5)" in baseline_sentences(rows, "VTP")[0]
    hard = [one for one in rows if one.spec.data.difficulty > 0]
    assert "real scenes have 0.5)" in baseline_sentences(hard, "VTP")[0]
    assert real_distances(rows)[0] == 0.5
