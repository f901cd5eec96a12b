import dataclasses
import errno
import json

import numpy as np
import pytest

from experiments.scale_encoder import plan
from vtp_eqx.frozen.scene_network import scene_network_hash
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.study.command import (
    _room,
    run_cost,
    run_study,
    SamplesOptions,
    Study,
    StudyOptions,
)
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.run_spec import RunPaths
from vtp_eqx.study.scene_kind import SceneKind
from vtp_eqx.study.scheduler import TimeLimits
from vtp_eqx.study.summary import baseline_sentences


@pytest.fixture
def runs(row, monkeypatch):
    """Runs that cost nothing: `runs` holds those that were executed, in order.

    Where `runs.failing` names a method, its runs fail.
    """

    class Runs(list):
        failing = ""
        limits = None

    made = Runs()

    def execute_runs(specs, paths, *, num_workers, cost, finished, console, limits):
        made.limits = limits
        for spec in specs:
            made.append(spec)
            assert cost(spec) > 0
            if spec.method == made.failing:
                continue
            folder = paths.result(spec)
            folder.mkdir(parents=True)
            for kind in ("reconstructions", f"samples_{spec.budgets[-1]}"):
                save_grid(np.zeros((4, 8, 8, 3), np.uint8), folder / f"{kind}.png", 2)
            result = row(spec, 4.0).result
            own = dataclasses.replace(result, feature_hash=scene_network_hash())
            own.write(folder)
            finished(spec)
        return [spec for spec in specs if spec.method == made.failing]

    monkeypatch.setattr("vtp_eqx.study.command.execute_runs", execute_runs)
    monkeypatch.setattr("vtp_eqx.study.command.prepare", lambda *arguments: None)
    return made


def small_study():
    return Study(
        name="small",
        title="Small",
        question="Which?",
        plan=plan,
        figure=curves_figure,
        summary=lambda rows: baseline_sentences(rows, "VTP"),
    )


def test_a_study_with_minutes_keeps_to_the_order_of_its_plan(runs, tmp_path):
    study = small_study()
    dearest_first = lambda scale, seeds: sorted(plan(scale, seeds), key=run_cost)[::-1]
    study = dataclasses.replace(study, plan=dearest_first)
    run_study(study, StudyOptions(runs=tmp_path, minutes=9, minutes_per_run=2))
    assert runs == dearest_first("laptop", range(1))
    assert runs.limits == TimeLimits(all_runs=540, one_run=120)
    assert StudyOptions().limits == TimeLimits()
    with pytest.raises(ValueError, match=r"^`minutes` \(0\) must be above 0"):
        StudyOptions(minutes=0)


def test_a_study_runs_again_what_is_missing_alone(runs, tmp_path):
    options = StudyOptions(smoke=True, runs=tmp_path, workers=1)
    run_study(small_study(), options)
    assert len(runs) == len(plan("smoke", [0]))
    run_study(small_study(), options)
    assert len(runs) == len(plan("smoke", [0]))
    text = (tmp_path / "small-smoke" / "small" / "report.md").read_text()
    assert f"{len(runs)} of {len(runs)} runs" in text


def test_methods_that_are_named_are_executed_alone(runs, tmp_path):
    options = StudyOptions(smoke=True, runs=tmp_path, workers=1, methods=("AE",))
    run_study(small_study(), options)
    assert {spec.method for spec in runs} == {"AE"}
    wrong = dataclasses.replace(options, settings=("7x7",))
    with pytest.raises(SystemExit, match=r"--settings.*7x7.*48x1"):
        run_study(small_study(), wrong)


def test_a_study_goes_on_from_the_numbers_of_a_report(runs, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run_study(small_study(), StudyOptions(smoke=True, runs=here, workers=1))
    count = len(runs)
    report = here / "small-smoke" / "small"
    known = there / "known.json"
    known.parent.mkdir()
    records = json.loads((report / "runs.json").read_text())
    known.write_text(json.dumps(records[1:]))  # all but the first run
    options = dict(smoke=True, runs=there, workers=1)
    run_study(small_study(), StudyOptions(reuse_results=(known,), **options))
    assert len(runs) == count + 1
    again = there / "small-smoke" / "small"
    assert json.loads((again / "runs.json").read_text()) == records
    # Those have no pictures here, and the report names none.
    shown = (again / "report.md").read_text().count("![reconstructions of")
    assert shown == 1 < (report / "report.md").read_text().count("![reconstructions of")


def test_results_count_by_the_network_that_is_made_with_the_data(
    runs, tmp_path, monkeypatch
):
    here, there = tmp_path / "here", tmp_path / "there"
    run_study(small_study(), StudyOptions(smoke=True, runs=here, workers=1))
    count = len(runs)
    # As that of emoji, which is trained when they are prepared.
    made = [""]
    monkeypatch.setattr(SceneKind, "network_hash", lambda *_: made[-1])
    prepare = lambda *_: made.append(scene_network_hash())
    monkeypatch.setattr("vtp_eqx.study.command.prepare", prepare)
    known = (here / "small-smoke" / "small" / "runs.json",)
    options = StudyOptions(smoke=True, runs=there, workers=1, reuse_results=known)
    run_study(small_study(), options)
    assert len(runs) == count


def test_a_result_that_cannot_be_read_is_named(runs, tmp_path):
    options = StudyOptions(smoke=True, runs=tmp_path, workers=1)
    run_study(small_study(), options)
    broken = RunPaths(tmp_path).result(runs[0]) / "result.json"
    for text in ("{", "[]", '{"option": 1}'):
        broken.write_text(text)
        with pytest.raises(SystemExit, match=rf"^`runs` \({broken}\) must be whole"):
            run_study(small_study(), options)


def test_a_study_names_the_file_of_known_runs_that_it_cannot_read(runs, tmp_path):
    none = tmp_path / "none.json"
    options = StudyOptions(smoke=True, runs=tmp_path, reuse_results=(none,))
    with pytest.raises(SystemExit, match=r"^`--reuse-results` .*none\.json"):
        run_study(small_study(), options)
    assert not runs


def test_a_study_whose_runs_fail_ends_with_1_after_the_others(runs, tmp_path):
    runs.failing = "AE"
    options = StudyOptions(smoke=True, runs=tmp_path, workers=1)
    with pytest.raises(SystemExit, match="1"):
        run_study(small_study(), options)
    runs.failing = ""
    done = len(runs)
    run_study(small_study(), options)
    assert {spec.method for spec in runs[done:]} == {"AE"}


def test_an_interrupted_study_says_how_to_go_on(runs, tmp_path, monkeypatch, capsys):
    def execute_runs(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vtp_eqx.study.command.execute_runs", execute_runs)
    with pytest.raises(SystemExit) as raised:
        run_study(small_study(), StudyOptions(smoke=True, runs=tmp_path, workers=1))
    assert raised.value.code == 130
    assert "run the command again" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["seeds", "workers"])
@pytest.mark.parametrize("number", [0, -1])
def test_a_study_without_work_or_workers_is_refused(option, number):
    with pytest.raises(
        ValueError, match=rf"^`{option}` \({number}\) must be 1 or more"
    ):
        StudyOptions(**{option: number})


def test_no_run_begins_with_a_guidance_that_is_no_number():
    with pytest.raises(ValueError, match=r"^`guidance` \(inf\) must be a finite"):
        SamplesOptions(guidance=float("inf"))


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
