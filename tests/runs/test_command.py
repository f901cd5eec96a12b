import signal
import threading

import pytest

from vtp_eqx.runs.command import exit_with_message, interruptible


def test_an_error_of_a_user_ends_the_program_with_its_sentence():
    with pytest.raises(SystemExit) as ended, exit_with_message(ValueError, OSError):
        raise ValueError("`size` (3) must be even: raise it.")
    assert ended.value.code == "`size` (3) must be even: raise it."


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError), exit_with_message(ValueError):
        raise KeyError("here")


def test_an_interrupt_is_one_sentence_and_its_status(capsys):
    with pytest.raises(SystemExit) as ended, exit_with_message(ValueError):
        signal.raise_signal(signal.SIGINT)
    assert ended.value.code == 130
    sentence = "Interrupted: the same command goes on from what was saved."
    assert capsys.readouterr().err == f"{sentence}\n"


def test_an_interrupt_of_an_inner_block_is_said_once(capsys):
    outer, inner = exit_with_message(), exit_with_message(ValueError)
    with pytest.raises(SystemExit) as ended, outer, inner:
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_block_ends_by_an_error_and_leaves_no_handler():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(60):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with interruptible(60):
        pass
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("seconds", "times"), [(60, 2), (0.1, 1)])
def test_a_block_that_does_not_end_is_ended(seconds, times, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("vtp_eqx.runs.command.exit_now", lambda *_: ended.set())

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:  # what waits for a thread, say
            if times == 2:
                assert not ended.is_set()
                signal.raise_signal(signal.SIGINT)
            assert ended.wait(10)

    with pytest.raises(KeyboardInterrupt), interruptible(seconds):
        work()
