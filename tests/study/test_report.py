import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from experiments import compare_convergence
from experiments.scale_encoder import plan
from vtp_eqx.frozen.scene_network import scene_network_hash
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.study.figure import (
    COLORS,
    convergence_figure,
    curves_figure,
    frontier_figure,
)
from vtp_eqx.study.measure import RunResult
from vtp_eqx.study.report import (
    read_records,
    RecordsError,
    rows_of,
    Study,
    write_report,
)
from vtp_eqx.study.run_spec import RunPaths, spec_hash, vision_flops
from vtp_eqx.study.table import (
    Column,
    COLUMNS,
    differences_table,
    means_table,
    Row,
    runs_table,
    terminal_table,
    unfinished_runs,
)
from vtp_eqx.training.flops import run_flops


OLD = Path(__file__).parent / "old_runs.json"


@pytest.fixture(scope="module")
def specs():
    return plan("smoke", [0])


def without(row, name):
    numbers = dict(row.result.numbers)
    del numbers[name]
    return Row(row.spec, dataclasses.replace(row.result, numbers=numbers))


def test_a_number_that_does_not_exist_is_not_made_up(specs, row):
    rows = [without(row(specs[0], 1.0), "color accuracy")]
    column = [column.name for column in COLUMNS].index("color accuracy")
    for table in (runs_table(rows), means_table(rows)):
        cells = table.splitlines()[2].split("|")[1:-1]
        assert cells[3 + column].strip() == "-"


def test_a_run_that_is_not_finished_has_no_numbers(specs):
    rows = [Row(specs[0], None)]
    assert len(runs_table(rows).splitlines()) == 2
    named = f"{specs[0].method}: {specs[0].setting} (seed {specs[0].seed})."
    assert unfinished_runs(rows) == f"Planned and not finished: {named}"


def test_no_run_is_named_unfinished_where_all_are_finished(specs, row):
    assert unfinished_runs([row(specs[0], 1.0)]) == ""


def test_means_of_seeds_show_half_of_their_range(row):
    specs = [spec for spec in plan("smoke", [0, 1]) if spec.method == "AE"]
    rows = [row(spec, 3.0 + spec.seed) for spec in specs]
    [line] = means_table(rows).splitlines()[2:]
    assert "| 2 |" in line
    assert "3.5 ± 0.5" in line


def test_a_terminal_shows_seven_columns_at_most(row, specs):
    table = terminal_table([row(spec, 3.0) for spec in specs], "Title")
    assert len(table.columns) <= 7
    assert table.row_count == len(specs)


def test_differences_are_paired_by_seed_and_in_deviations_of_seeds(row):
    specs = plan("smoke", [0, 1, 2])
    # Seeds differ by more than methods: differences are 1, 2 and 3.
    distance = {"AE": (5.0, 9.0, 4.0), "VTP": (4.0, 7.0, 1.0)}
    rows = [row(spec, distance[spec.method][spec.seed]) for spec in specs]
    [line] = differences_table(rows).splitlines()[2:]
    assert "| 3 | +2.0 (-0.5 to +4.5) | " in line
    deviation = np.sqrt((np.var([5, 9, 4], ddof=1) + np.var([4, 7, 1], ddof=1)) / 2)
    assert f"| {2 / deviation:+.1f} |" in line
    assert differences_table(rows[:1]) == ""


def drawn_figures(monkeypatch):
    drawn = []
    write = lambda figure, path, title: drawn.append(figure)
    monkeypatch.setattr("vtp_eqx.study.figure._write", write)
    return drawn


def test_every_method_of_a_study_has_its_curve(specs, row, tmp_path, monkeypatch):
    drawn = drawn_figures(monkeypatch)
    names = ["AE", *(f"method {number}" for number in range(len(COLORS) + 1))]
    rows = [row(dataclasses.replace(specs[0], method=name), 4.0) for name in names]
    curves_figure(rows, tmp_path / "study.png", "title")
    frontier_figure(rows, tmp_path / "study.png", "title")
    for figure in drawn:
        curves = [line.get_label() for line in figure.axes[0].lines]
        assert curves[: len(names)] == names


def test_a_band_spans_the_seeds_of_the_committed_runs(row, tmp_path, monkeypatch):
    drawn = drawn_figures(monkeypatch)
    specs = plan("laptop", [0, 1])
    rows = [row(spec, 5.0) for spec in specs if spec.seed == 0]
    band = [row(spec, 3.0 + spec.seed) for spec in specs]
    curves_figure(rows, tmp_path / "study.png", "title", band=band)
    fills = [
        one
        for one in drawn[0].axes[0].collections
        if "committed" in str(one.get_label())
    ]
    assert len(fills) == 2
    heights = fills[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (3.0, 4.0)


def test_the_frontier_has_a_point_for_each_setting(row, tmp_path, monkeypatch):
    drawn = drawn_figures(monkeypatch)
    specs = [spec for spec in plan("laptop", [0]) if spec.method == "AE"]
    rows = [row(spec, 4.0 + i, PSNR=20.0 + i) for i, spec in enumerate(specs)]
    frontier_figure(rows, tmp_path / "study.png", "title")
    line = drawn[0].axes[0].lines[0]
    assert line.get_xydata().tolist() == [[20.0, 4.0], [21.0, 5.0], [22.0, 6.0]]


def test_the_flops_of_a_frozen_network_count_for_what_is_aligned_with_it(row):
    rows = [row(spec, 4.0) for spec in compare_convergence.plan("smoke", [0])]
    known = {spec_hash(one.spec): comparable(one).result for one in rows}
    found = rows_of([one.spec for one in rows], RunPaths(Path("none")), known)
    flops = {one.spec.method: one.result.numbers["FLOPs"] for one in found}
    own = {one.spec.method: run_flops(one.spec.pretrain) for one in found}
    frozen = vision_flops(found[-1].spec)
    assert flops == own | {"distilled": own["distilled"] + frozen}
    table = means_table(found, compare_convergence.columns("smoke")).splitlines()
    cells = [line.split("|")[-2].strip() for line in table]
    assert cells[0] == "of them for the frozen network"
    assert cells[2:] == ["-", "-", f"{frozen:.1e}"]


def test_convergence_has_a_curve_a_method_and_bars_over_seeds(
    converging, tmp_path, monkeypatch
):
    drawn = drawn_figures(monkeypatch)
    fall = [(8.0, 4.0, 2.0), (12.0, 8.0, 4.0)]
    methods = ("AE", "VTP", "distilled")
    rows = converging([0, 1], dict.fromkeys(methods, fall))
    convergence_figure(rows, tmp_path / "study.png", "title")
    axis = drawn[0].axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    lines = {str(line.get_label()): line for line in axis.lines}
    named = {name for name in lines if not name.startswith("_")}
    assert named == {*methods, "AE at its end", "training scenes: the floor"}
    for method in methods:
        assert lines[method].get_xydata().tolist() == [[2, 10], [4, 6], [6, 3]]
    for bars in axis.collections:
        ends = [bar[:, 1].tolist() for bar in bars.get_segments()]
        assert ends == [[8, 12], [4, 8], [2, 4]]
    assert len(axis.collections) == 3
    # Nothing is finished yet: axes alone.
    convergence_figure([Row(one.spec, None) for one in rows], tmp_path / "x", "title")
    assert not drawn[1].axes[0].lines


STUDY = Study(
    name="study",
    title="T",
    question="Q?",
    plan=plan,
    figure=lambda *_: None,
    summary=lambda rows: ["S."],
)


def reported(rows, paths, out):
    write_report(STUDY, rows, paths, out, command="python x.py", seconds=60.0)
    return (out / "report.md").read_text()


def comparable(row):
    result = dataclasses.replace(row.result, feature_hash=scene_network_hash())
    return Row(row.spec, result)


def test_a_report_shows_the_runs_whose_pictures_are_at_hand(row, tmp_path):
    specs = plan("smoke", [0, 1])
    paths, out = RunPaths(tmp_path / "runs"), tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    shown = [one for one in specs if (one.method, one.seed) == ("AE", 1)]
    for spec in shown:
        folder = paths.result(spec)
        folder.mkdir(parents=True)
        save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / "samples_6.png", 2)
    text = reported([row(spec, 2.0) for spec in specs], paths, out)
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [f"### {spec.name}" for spec in shown]


def test_a_report_counts_what_is_planned_twice_once(specs, row, tmp_path):
    again = [dataclasses.replace(specs[0], setting="other"), *specs]
    (tmp_path / "out" / "figures").mkdir(parents=True)
    rows = [Row(again[0], None), *(row(spec, 2.0) for spec in specs[1:])]
    text = reported([*rows, Row(specs[0], None)], RunPaths(tmp_path), tmp_path / "out")
    assert f"{len(specs) - 1} of {len(specs)} runs" in text


def test_what_another_network_measured_does_not_count(specs, row, tmp_path):
    paths, spec = RunPaths(tmp_path), specs[0]
    result = dataclasses.replace(row(spec, 2.0).result, feature_hash="another")
    folder = paths.result(spec)
    folder.mkdir(parents=True)
    result.write(folder)
    assert RunResult.read(paths, spec) is None
    (tmp_path / "figures").mkdir()
    reported([Row(spec, result)], paths, tmp_path)
    known = read_records([tmp_path / "runs.json"])
    assert known[spec_hash(spec)].feature_hash == "another"
    [found] = rows_of([spec], RunPaths(tmp_path / "elsewhere"), known)
    assert found.result is None


def test_a_report_of_an_earlier_version_is_read():
    found = read_records([OLD])
    assert [*found] == ["4bf311880f23", "122963d1c050"]
    result = found["4bf311880f23"]
    assert result.numbers["FD-scenes"] == pytest.approx(12.7070, abs=1e-3)
    assert result.feature_hash.startswith("0acc6316")
    assert "size" not in result.numbers
    assert "judge" not in result.numbers


def test_a_report_holds_every_run_and_a_picture_of_each_method(specs, row, tmp_path):
    paths, out = RunPaths(tmp_path / "runs"), tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for spec in specs:
        folder = paths.result(spec)
        folder.mkdir(parents=True)
        comparable(row(spec, 2.0)).result.write(folder)
        for kind in ("reconstructions", "samples_6"):
            save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / f"{kind}.png", 2)
    rows = rows_of(specs, paths)
    text = reported(rows, paths, out)
    assert "Runs were measured at `c0ffee`, 2026-01-01 to 2026-01-01." in text
    for spec in specs:
        assert f"| {spec.method} | {spec.setting} | {spec.seed} |" in text
    for line in text.splitlines():
        if line.startswith("!["):
            target = line.partition("](")[2][:-1]
            assert target == "figures/study.png" or (out / target).exists()
    records = json.loads((out / "runs.json").read_text())
    assert [record["FD-scenes"] for record in records] == [2.0] * len(specs)
    assert [record["hash"] for record in records] == [*map(spec_hash, specs)]
    assert {record["commit"] for record in records} == {"c0ffee"}
    flops = [record["FLOPs"] for record in records]
    assert flops == [run_flops(spec.pretrain) for spec in specs]
    elsewhere = RunPaths(tmp_path / "elsewhere")
    assert rows_of(specs, elsewhere, read_records([out / "runs.json"])) == rows
    assert all(row.result is None for row in rows_of(specs, elsewhere))


def test_a_report_without_numbers_of_a_column_says_so(specs, row, tmp_path):
    (tmp_path / "figures").mkdir()
    rows = [without(row(specs[0], 1.0), "PSNR")]
    assert " | - | " in reported(rows, RunPaths(tmp_path), tmp_path)
    one = (Column("PSNR", "PSNR", ".1f"),)
    assert runs_table(rows, one).splitlines()[2].endswith("| - |")


@pytest.mark.parametrize(
    "text", [None, "", "{}", '{"hash": "a"}', "[1]", '[{"commit": "c0ffee"}]', "[[]]"]
)
def test_what_is_no_record_of_runs_is_refused_by_its_name(text, tmp_path):
    path = tmp_path / "runs.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        RecordsError, match=r"^`--reuse-results` .*runs\.json"
    ) as raised:
        read_records([path])
    assert "\n" not in str(raised.value)


def test_small_images_become_squares_in_a_grid(tmp_path):
    save_grid(np.full((3, 32, 32, 3), 7, np.uint8), tmp_path / "grid.png", 2)
    with Image.open(tmp_path / "grid.png") as opened:
        grid = np.asarray(opened)
    assert grid.shape == (2 * 100 + 4, 2 * 100 + 4, 3)
    assert (grid[4:100, 4:100] == 7).all()
    assert (grid[104:, 104:] == 255).all()  # the fourth place is empty
