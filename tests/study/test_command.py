import errno
import json

import numpy as np
import pytest

from experiments.scale_encoder import plan
from vtp_eqx.study.command import _room, Arguments, run_study, Study
from vtp_eqx.study.figure import scaling_figure
from vtp_eqx.study.findings import scaling_findings
from vtp_eqx.study.pictures import save_grid


@pytest.fixture
def runs(row, monkeypatch):
    """Runs that cost nothing: `runs` holds the points that were run, in order.

    Where `runs.failing` names a method, its points fail.
    """

    class Runs(list):
        failing = ""

    made = Runs()

    def run_points(points, places, *, num_workers, finished, console):
        for point in points:
            made.append(point)
            if point.method == made.failing:
                continue
            folder = places.point(point)
            folder.mkdir(parents=True)
            for kind in ("reconstructions", "samples"):
                save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / f"{kind}.png", 2)
            row(point, 4.0).result.write(folder)
            finished(point)
        return [point for point in points if point.method == made.failing]

    monkeypatch.setattr("vtp_eqx.study.command.run_points", run_points)
    monkeypatch.setattr("vtp_eqx.study.command.prepare", lambda *arguments: None)
    return made


def small_study():
    return Study(
        name="small",
        title="Small",
        question="Which?",
        plan=plan,
        figure=scaling_figure,
        findings=scaling_findings,
    )


def test_a_study_runs_again_what_is_missing_alone(runs, tmp_path):
    arguments = Arguments(smoke=True, runs=tmp_path, workers=1)
    run_study(small_study(), arguments)
    assert len(runs) == len(plan("smoke", [0]))
    run_study(small_study(), arguments)
    assert len(runs) == len(plan("smoke", [0]))
    text = (tmp_path / "small-smoke" / "small" / "report.md").read_text()
    assert f"{len(runs)} of {len(runs)} runs" in text


def test_a_study_goes_on_from_the_numbers_of_a_report(runs, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run_study(small_study(), Arguments(smoke=True, runs=here, workers=1))
    count = len(runs)
    report = here / "small-smoke" / "small"
    known = there / "known.json"
    known.parent.mkdir()
    records = json.loads((report / "runs.json").read_text())
    known.write_text(json.dumps(records[1:]))  # all but the first run
    options = dict(smoke=True, runs=there, workers=1)
    run_study(small_study(), Arguments(known=(known,), **options))
    assert len(runs) == count + 1
    again = there / "small-smoke" / "small"
    assert json.loads((again / "runs.json").read_text()) == records
    # Those have no pictures here, and the report names none.
    shown = (again / "report.md").read_text().count("![reconstructions of")
    assert shown == 1 < (report / "report.md").read_text().count("![reconstructions of")


def test_a_study_names_the_file_of_known_runs_that_it_cannot_read(runs, tmp_path):
    arguments = Arguments(smoke=True, runs=tmp_path, known=(tmp_path / "none.json",))
    with pytest.raises(SystemExit, match=r"Known runs must be .*none\.json"):
        run_study(small_study(), arguments)
    assert not runs


def test_a_study_whose_points_fail_ends_with_1_behind_the_others(runs, tmp_path):
    runs.failing = "AE"
    arguments = Arguments(smoke=True, runs=tmp_path, workers=1)
    with pytest.raises(SystemExit, match="1"):
        run_study(small_study(), arguments)
    runs.failing = ""
    done = len(runs)
    run_study(small_study(), arguments)
    assert {point.method for point in runs[done:]} == {"AE"}


def test_an_interrupted_study_says_how_to_go_on(runs, tmp_path, monkeypatch, capsys):
    def run_points(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vtp_eqx.study.command.run_points", run_points)
    with pytest.raises(SystemExit) as raised:
        run_study(small_study(), Arguments(smoke=True, runs=tmp_path, workers=1))
    assert raised.value.code == 130
    assert "run the command again" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["seeds", "workers"])
@pytest.mark.parametrize("number", [0, -1])
def test_a_study_without_work_or_workers_is_refused(option, number):
    with pytest.raises(ValueError, match=f"`{option}` must be 1 or more; got {number}"):
        Arguments(**{option: number})


def test_a_folder_that_cannot_be_written_ends_a_study_at_once(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SystemExit, match=r"^A run needs a folder"), _room(blocked):
        pytest.fail("it began")


def test_a_full_disk_ends_a_study_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vtp_eqx.study.command.SPACE_NEEDED", float(2**70))
    with pytest.raises(SystemExit, match="GB of free disk"), _room(tmp_path):
        pytest.fail("it began")


def test_a_disk_that_fills_up_ends_a_study_with_a_sentence(tmp_path):
    with (
        pytest.raises(SystemExit, match=r"^A run needs room .* full disk at"),
        _room(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_another_error_is_no_matter_of_room(tmp_path):
    with pytest.raises(FileNotFoundError), _room(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
