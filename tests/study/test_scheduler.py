import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from experiments.scale_encoder import plan
from vtp_eqx.study import scheduler
from vtp_eqx.study.run_spec import RunPaths
from vtp_eqx.study.scheduler import (
    _stop,
    execute_runs,
    own_cores,
    ProgressWriter,
    read_progress,
    StageProgress,
    TimeLimits,
    worker_environment,
)


def test_progress_is_read_as_it_was_reported(tmp_path):
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    ProgressWriter(path)("tokenizer", 3, 10)
    progress = read_progress(path)
    assert (progress.stage, progress.done, progress.total) == ("tokenizer", 0, 7)


def test_a_resumed_stage_is_timed_from_where_it_resumed(tmp_path):
    writer = ProgressWriter(tmp_path / "progress.json")
    writer("tokenizer", 90, 100)
    writer("tokenizer", 100, 100)
    assert read_progress(tmp_path / "progress.json").done == 10


def test_time_left_follows_the_pace():
    progress = StageProgress(stage="generator", done=20, total=50, seconds=40.0)
    assert progress.seconds_left == pytest.approx(60)
    assert StageProgress(stage="x", done=0, total=5, seconds=1.0).seconds_left is None


def test_several_workers_have_cores_of_their_own():
    cores = own_cores(2)
    if len(os.sched_getaffinity(0)) >= 2:
        assert len(set(cores)) == 2
        assert None not in cores
    assert own_cores(1) == [None]
    assert own_cores(10_000) == [None] * 10_000


def test_a_worker_with_a_core_runs_one_thread(tmp_path):
    pinned = worker_environment(0, tmp_path)
    assert "multi_thread_eigen=false" in pinned["XLA_FLAGS"]
    assert pinned["OMP_NUM_THREADS"] == "1"
    roaming = worker_environment(None, tmp_path)
    assert "multi_thread_eigen=false" not in roaming.get("XLA_FLAGS", "")


@pytest.mark.slow
def test_a_run_that_fails_is_returned_and_what_it_said_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "LINE_SECONDS", 0.0)
    output = io.StringIO()
    # Nothing was prepared, so that the worker cannot read its data.
    [spec] = plan("smoke", [0])[:1]
    finished = []
    failed = execute_runs(
        [spec],
        RunPaths(tmp_path / "runs"),
        num_workers=1,
        cost=lambda spec: 1.0,
        finished=finished.append,
        console=Console(file=output, width=200),
    )
    assert failed == [spec]
    assert finished == []
    assert "failed" in output.getvalue()
    assert "words.json" in output.getvalue()
    # Without a terminal there is a line now and then.
    assert f"0 of 1 runs done, 0:00 gone. {spec.name}: starting" in output.getvalue()


@pytest.mark.parametrize("limits", [
    TimeLimits(one_run=1.0), TimeLimits(all_runs=1.0),
])  # fmt: skip
def test_runs_past_their_time_are_stopped_and_did_not_fail(
    limits, tmp_path, monkeypatch
):
    monkeypatch.setattr(scheduler, "LINE_SECONDS", 0.0)
    program = [sys.executable, "-c", "import time; time.sleep(60)"]
    start = subprocess.Popen
    monkeypatch.setattr(
        scheduler.subprocess, "Popen", lambda command, **how: start(program, **how)
    )
    output, begun = io.StringIO(), time.monotonic()
    failed = execute_runs(
        plan("smoke", [0])[:2],
        RunPaths(tmp_path / "runs"),
        num_workers=1,
        cost=lambda spec: 1.0,
        finished=lambda spec: pytest.fail("none is finished"),
        console=Console(file=output, width=200),
        limits=limits,
    )
    assert failed == []
    assert time.monotonic() - begun < 30
    # Each run has its own time; of all runs the second never began.
    begun_runs = 2 if limits.one_run == 1 else 1
    assert output.getvalue().count("stopped, its time is over") == begun_runs
    assert "0 of 2 runs done" in output.getvalue()  # not those that never began
    assert not re.search(r"[12] of 2 runs done", output.getvalue())


def test_time_left_goes_by_what_is_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])
    clock = scheduler._Clock(total=4.0, num_workers=2)
    assert clock.time_left([100.0]) == ""
    assert not clock.is_line_due()
    now[0] += 90
    clock.add(cost=1.0, begun=110.0)
    assert clock.elapsed() == "1:30"
    # 3 more, of 80 seconds each, by two; 30 seconds of one are gone.
    assert clock.time_left([160.0]) == "about 1:45 left"
    assert clock.is_line_due()
    assert not clock.is_line_due()


SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(1)
    print("saved", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(60)
"""
STAYS = SAVES.replace("sys.exit()", "time.sleep(60)")


@pytest.mark.parametrize(("program", "status"), [(SAVES, 0), (STAYS, -9)])
def test_workers_have_time_to_save_but_not_forever(program, status, monkeypatch):
    if program is STAYS:
        monkeypatch.setattr("vtp_eqx.study.scheduler.SECONDS_TO_SAVE", 2.0)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        _stop([process])
        assert process.stdout.read() == "saved\n"
        assert process.returncode == status


def test_a_worker_ends_with_the_study_that_started_it(tmp_path):
    # Its spec never comes, so that it has no other end.
    os.mkfifo(tmp_path / "spec.json")
    # The study's place is taken by a shell that starts a worker and dies at once.
    worker = f'"{sys.executable}" -m vtp_eqx.study.worker {tmp_path} {tmp_path}'
    study = f"{worker} $$ & echo $!; read -r"
    shell = subprocess.Popen(
        ["bash", "-c", study], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    worker = int(shell.stdout.readline())
    shell.kill()
    shell.wait()
    for stream in (shell.stdin, shell.stdout):
        stream.close()
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker went on alone")
