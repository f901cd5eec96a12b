import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

from experiments.scale_encoder import plan
from vtp_eqx.study.figure import (
    COLORS,
    leads_figure,
    scaling_figure,
    scatter_figure,
)
from vtp_eqx.study.measure import Result
from vtp_eqx.study.paired import interval
from vtp_eqx.study.pictures import save_grid
from vtp_eqx.study.point import Places, point_hash
from vtp_eqx.study.report import read_records, RecordsError, rows_of, write_report
from vtp_eqx.study.table import COLUMNS, markdown_table, means_table, Row
from vtp_eqx.training.flops import run_flops


@pytest.fixture(scope="module")
def points():
    return plan("smoke", [0])


def test_a_number_that_does_not_exist_is_not_made_up(points, row):
    numbers = dict(row(points[0], 1.0).result.numbers)
    del numbers["zero-shot shape"]
    rows = [Row(points[0], Result(numbers=numbers, commit="c0ffee", date="2026-01-01"))]
    place = [column.name for column in COLUMNS].index("zero-shot shape")
    for table, before in ((markdown_table(rows), 2), (means_table(rows), 3)):
        cells = table.splitlines()[2].split("|")
        assert cells[before + place].strip() == "-"


def test_means_of_seeds_show_half_of_their_range(row):
    points = [point for point in plan("smoke", [0, 1]) if point.method == "AE"]
    rows = [row(point, 3.0 + point.seed) for point in points]
    [line] = means_table(rows).splitlines()[2:]
    assert "| 2 |" in line
    assert "3.50 ±0.50" in line


@pytest.mark.parametrize("draw", [scaling_figure, scatter_figure, leads_figure])
def test_a_figure_is_drawn_before_and_after_there_are_results(
    draw, points, row, tmp_path
):
    path = tmp_path / "figures" / "study.png"
    for rows in ([Row(point, None) for point in points],
                 [row(point, 4.0) for point in points]):  # fmt: skip
        draw(rows, path, "title")
        with Image.open(path) as figure:
            assert figure.size[0] > 1000


def test_every_method_of_many_is_a_curve(points, row, tmp_path, monkeypatch):
    drawn = []
    write = lambda figure, path, title: drawn.append(figure)
    monkeypatch.setattr("vtp_eqx.study.figure._write", write)
    names = [f"method {number}" for number in range(len(COLORS) + 1)]
    rows = [row(dataclasses.replace(points[0], method=name), 4.0) for name in names]
    scaling_figure(rows, tmp_path / "study.png", "title")
    curves = [line.get_label() for line in drawn[0].axes[0].lines]
    assert curves[: len(names)] == names


def test_a_lead_is_drawn_where_it_is_with_its_interval(row, tmp_path, monkeypatch):
    drawn = []
    write = lambda figure, path, title: drawn.append(figure)
    monkeypatch.setattr("vtp_eqx.study.figure._write", write)
    distance = {"AE": (8.0, 6.0), "VTP": (5.0, 5.0)}
    rows = [row(point, distance[point.method][point.seed])
            for point in plan("smoke", [0, 1])]  # fmt: skip
    leads_figure(rows, tmp_path / "study.png", "title")
    dots, line, middle = drawn[0].axes[0].collections
    assert np.asarray(dots.get_offsets())[:, 0].tolist() == [3.0, 1.0]
    assert np.asarray(middle.get_offsets())[:, 0].tolist() == [2.0]
    assert line.get_segments()[0][:, 0] == pytest.approx(interval([3.0, 1.0]))


def reported(rows, places, out):
    write_report(
        rows,
        ["F."],
        places,
        out,
        title="T",
        question="Q?",
        figure=out / "figures" / "study.png",
        command="python x.py",
        seconds=60.0,
    )
    return (out / "report.md").read_text()


def test_a_report_shows_the_runs_whose_pictures_are_at_hand(row, tmp_path):
    points = plan("smoke", [0, 1])
    places, out = Places(tmp_path / "runs"), tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    shown = [one for one in points if (one.method, one.seed) == ("AE", 1)]
    for point in shown:
        folder = places.point(point)
        folder.mkdir(parents=True)
        save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / "samples.png", 2)
    text = reported([row(point, 2.0) for point in points], places, out)
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [f"### {point.name}" for point in shown]


def test_a_report_counts_what_is_planned_twice_once(points, row, tmp_path):
    again = [dataclasses.replace(points[0], size="other"), *points]
    (tmp_path / "out" / "figures").mkdir(parents=True)
    rows = [Row(again[0], None), *(row(point, 2.0) for point in points[1:])]
    text = reported([*rows, Row(points[0], None)], Places(tmp_path), tmp_path / "out")
    assert f"{len(points) - 1} of {len(points)} runs" in text


def test_what_another_network_judged_is_not_found(points, row, tmp_path):
    places = Places(tmp_path)
    result = dataclasses.replace(row(points[0], 2.0).result, judge="another")
    folder = places.point(points[0])
    folder.mkdir(parents=True)
    result.write(folder)
    assert Result.read(folder) is None
    (tmp_path / "figures").mkdir()
    reported([Row(points[0], result)], places, tmp_path)
    assert read_records([tmp_path / "runs.json"]) == {}
    records = json.loads((tmp_path / "runs.json").read_text())
    del records[0]["judge"]  # as in reports older than that field
    (tmp_path / "runs.json").write_text(json.dumps(records))
    assert [*read_records([tmp_path / "runs.json"])] == [point_hash(points[0])]


def test_a_report_holds_every_run_and_a_picture_of_each_method(points, row, tmp_path):
    places, out = Places(tmp_path / "runs"), tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for point in points:
        folder = places.point(point)
        folder.mkdir(parents=True)
        row(point, 2.0).result.write(folder)
        for kind in ("reconstructions", "samples"):
            save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / f"{kind}.png", 2)
    rows = rows_of(points, places)
    text = reported(rows, places, out)
    assert "Runs were measured at `c0ffee`, 2026-01-01 to 2026-01-01." in text
    for point in points:
        assert f"| {point.name} |" in text
    for line in text.splitlines():
        if line.startswith("!["):
            target = line.partition("](")[2][:-1]
            assert target == "figures/study.png" or (out / target).exists()
    records = json.loads((out / "runs.json").read_text())
    assert [record["FD-scenes"] for record in records] == [2.0] * len(points)
    assert [record["hash"] for record in records] == [*map(point_hash, points)]
    assert {record["commit"] for record in records} == {"c0ffee"}
    flops = [record["FLOPs"] for record in records]
    assert flops == [run_flops(point.pretrain) for point in points]
    elsewhere = Places(tmp_path / "elsewhere")
    assert rows_of(points, elsewhere, read_records([out / "runs.json"])) == rows
    assert all(row.result is None for row in rows_of(points, elsewhere))


@pytest.mark.parametrize(
    "text", [None, "", "{}", '{"hash": "a"}', "[1]", '[{"commit": "c0ffee"}]', "[[]]"]
)
def test_what_is_no_record_of_runs_is_refused_by_its_name(text, tmp_path):
    path = tmp_path / "runs.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecordsError, match=r"Known runs must .*runs\.json") as raised:
        read_records([path])
    assert "\n" not in str(raised.value)


def test_small_images_become_squares_in_a_grid(tmp_path):
    save_grid(np.full((3, 32, 32, 3), 7, np.uint8), tmp_path / "grid.png", 2)
    with Image.open(tmp_path / "grid.png") as opened:
        grid = np.asarray(opened)
    assert grid.shape == (2 * 100 + 4, 2 * 100 + 4, 3)
    assert (grid[4:100, 4:100] == 7).all()
    assert (grid[104:, 104:] == 255).all()  # the fourth place is empty
