import time

import pytest

from vtp_eqx.runs.throughput import (
    format_duration,
    print_progress,
    StepCost,
    throttled_print,
    Throughput,
)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_pace_of_ten_steps_by_hand(clock):
    throughput = Throughput(StepCost(images=32, flops=1e9, peak=1e10))
    assert throughput.read(1, 100) == {}  # the first step compiled
    clock[0] += 4
    with throughput.waiting_for_data():
        clock[0] += 1
    with throughput.paused():
        clock[0] += 100  # an evaluation is no step
    assert throughput.read(11, 100) == {
        "images_per_second": 64,  # 10 steps of 32 in 5 seconds
        "data_wait": 0.2,
        "seconds_left": 44.5,  # 89 steps at 2 a second
        "mfu": 0.2,
    }
    clock[0] += 2
    assert throughput.read(12, 100)["data_wait"] == 0  # of this stretch alone


def test_without_a_cost_nothing_is_said(clock):
    throughput = Throughput(None)
    throughput.read(1, 10)
    clock[0] += 1
    assert throughput.read(2, 10) == {}


def test_what_is_said_now_and_then_waits_between(clock, capsys):
    say = throttled_print("{} of {}")
    for done in range(1, 8):
        clock[0] += 2
        say(done, 7)
    assert capsys.readouterr().out == "3 of 7\n6 of 7\n"


def test_a_line_for_the_terminal(capsys):
    values = {"total": 1.23456, "mfu": 0.314, "seconds_left": 3723.0, "dino": 4.0}
    print_progress(5, 9, values)
    printed = capsys.readouterr().out
    assert printed == "step 5/9  total 1.235  MFU 31.4%  1 h 02 min left\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7, "0:07 min"), (3600, "1 h 00 min"), (200_000, "2 d 7 h")],
)
def test_durations_in_words(seconds, words):
    assert format_duration(seconds) == words
