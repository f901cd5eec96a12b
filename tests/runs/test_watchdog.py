import os
import sys
import threading
import time

import pytest

from vtp_eqx.runs import watchdog as module
from vtp_eqx.runs.watchdog import STALLED, Watchdog


@pytest.fixture
def warned(monkeypatch):
    warned = []
    monkeypatch.setattr(module, "warn", warned.append)
    return warned


@pytest.fixture
def ended(monkeypatch):
    """The statuses that the process would have ended with."""
    ended = []

    def end(status):
        ended.append(status)
        sys.exit()  # of the watchdog's thread alone

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(os, "_exit", end)
    return ended


def wait_for(condition):
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_stall_is_said_once_with_the_stacks_of_all_threads(tmp_path, warned):
    path = tmp_path / "stalls.txt"
    with Watchdog(path, 0.1) as watchdog:
        watchdog.beat()
        assert wait_for(lambda: warned)
        time.sleep(0.3)
    assert len(warned) == 1
    assert "count as a stall: waiting on" in warned[0]
    written = path.read_text()
    assert warned[0] in written
    assert "test_a_stall_is_said_once" in written  # where this thread stood


def test_a_slow_step_is_said_and_only_a_stall_ends_the_process(
    tmp_path, monkeypatch, warned, ended
):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Watchdog(tmp_path / "stalls.txt", 1000, ends=True) as watchdog:
        for _ in range(12):
            now[0] += 2
            watchdog.beat()
        now[0] += 500  # a data disk that sleeps, say
        assert wait_for(lambda: warned)
        assert "100.0 s count as a stall: waiting on" in warned[0]
        assert not ended
        now[0] += 501
        assert wait_for(lambda: ended)
    assert ended == [STALLED]
    assert "1000.0 s count as a stall: ending the process" in warned[1]


def test_a_run_that_moves_is_left_in_peace(tmp_path, warned):
    with Watchdog(tmp_path / "stalls.txt", 0.5) as watchdog:
        for _ in range(10):
            watchdog.beat()
            time.sleep(0.1)
    assert not warned


def test_the_limit_is_a_multiple_of_the_median_step(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "_FACTOR", 20)
    watchdog = Watchdog(tmp_path / "stalls.txt", 1000)
    assert watchdog.limit() == 1000  # while the first step compiles
    for _ in range(12):
        now[0] += 2
        watchdog.beat()
    assert watchdog.limit() == 40
    with watchdog.paused():  # a checkpoint may take longer than steps
        assert watchdog.limit() == 1000
        now[0] += 500
    now[0] += 2
    watchdog.beat()
    assert watchdog.limit() == 40
