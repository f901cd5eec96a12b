import pytest

from vtp_eqx.runs.command import exit_with_message


def test_an_error_of_a_user_ends_the_program_with_its_sentence():
    with pytest.raises(SystemExit) as ended, exit_with_message(ValueError, OSError):
        raise ValueError("`size` (3) must be even: raise it.")
    assert ended.value.code == "`size` (3) must be even: raise it."


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError), exit_with_message(ValueError):
        raise KeyError("here")
