import numpy as np
from PIL import Image
import pytest

from experiments.scale_encoder import plan
from vtp_eqx.study.figure import scaling_figure
from vtp_eqx.study.measure import Result
from vtp_eqx.study.pictures import save_grid
from vtp_eqx.study.point import Places
from vtp_eqx.study.report import rows_of, write_report
from vtp_eqx.study.table import COLUMNS, markdown_table, Row


NAMES = (
    *(column.name for column in COLUMNS),
    "FD-scenes floor",
    "PSNR of PCA",
)


def row(point, distance):
    numbers = dict.fromkeys(NAMES, 0.5) | {"FD-scenes": distance, "FLOPs": 1e12}
    return Row(point, Result(numbers))


@pytest.fixture(scope="module")
def points():
    return plan("smoke", [0])


def test_where_vtp_is_behind_is_said_first(points):
    sizes = plan("laptop", [0])
    distance = {"AE": {}, "VTP": {}}
    for number, size in enumerate(dict.fromkeys(point.size for point in sizes)):
        distance["AE"][size] = 5.0
        distance["VTP"][size] = 4.0 if number == 0 else 6.0
    rows = [row(point, distance[point.method][point.size]) for point in sizes]
    lines = findings(rows)
    assert "behind" in lines[0]
    assert "behind" in lines[1]
    assert "ahead of" in lines[2]


def test_one_seed_is_said_to_show_no_spread(points):
    lines = findings([row(point, 3.0) for point in points])
    assert any("one seed" in line for line in lines)


def test_two_seeds_show_their_spread():
    points = plan("smoke", [0, 1])
    rows = [row(point, 3.0 + point.seed) for point in points]
    assert any("up to 1.00" in line for line in findings(rows))


def test_runs_that_are_missing_are_counted(points):
    lines = findings([row(points[0], 3.0), Row(points[1], None)])
    assert "1 of 2 runs are not finished" in lines[0]


def test_a_number_that_does_not_exist_is_not_made_up(points):
    numbers = dict.fromkeys(NAMES, 0.25)
    del numbers["zero-shot shape"]
    cells = markdown_table([Row(points[0], Result(numbers))]).splitlines()[2].split("|")
    place = 2 + [column.name for column in COLUMNS].index("zero-shot shape")
    assert cells[place].strip() == "-"


def test_the_figure_is_drawn_before_and_after_there_are_results(points, tmp_path):
    path = tmp_path / "figures" / "study.png"
    for rows in ([Row(point, None) for point in points],
                 [row(point, 4.0) for point in points]):  # fmt: skip
        scaling_figure(rows, path, "title")
        with Image.open(path) as figure:
            assert figure.size[0] > 1000


def test_a_report_holds_every_run_and_its_pictures(points, tmp_path):
    places, out = Places(tmp_path / "runs"), tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for point in points:
        folder = places.point(point)
        folder.mkdir(parents=True)
        row(point, 2.0).result.write(folder)
        for kind in ("reconstructions", "samples"):
            save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / f"{kind}.png", 2)
    rows = rows_of(points, places)
    write_report(
        rows,
        ["F."],
        places,
        out,
        title="T",
        question="Q?",
        command="python x.py",
        seconds=60.0,
    )
    text = (out / "report.md").read_text()
    for point in points:
        assert f"| {point.name} |" in text
    for line in text.splitlines():
        if line.startswith("!["):
            target = line.partition("](")[2][:-1]
            assert target == "figures/out.png" or (out / target).exists()


def test_small_images_become_squares_in_a_grid(tmp_path):
    save_grid(np.full((3, 32, 32, 3), 7, np.uint8), tmp_path / "grid.png", 2)
    with Image.open(tmp_path / "grid.png") as opened:
        grid = np.asarray(opened)
    assert grid.shape == (2 * 100 + 4, 2 * 100 + 4, 3)
    assert (grid[4:100, 4:100] == 7).all()
    assert (grid[104:, 104:] == 255).all()  # the fourth place is empty
