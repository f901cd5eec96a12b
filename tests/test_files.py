import subprocess
import sys
import time

import pytest

from vtp_eqx.files import atomic_path, exclusive_folder


HOLD = """
import pathlib, sys, time
from vtp_eqx.files import exclusive_folder
with exclusive_folder(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fill_the_disk():
        with atomic_path(path) as unfinished:
            unfinished.write_text("ne")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_lets_the_next_one_in(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"in\n"
    waiter = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        time.sleep(0.5)
        assert waiter.poll() is None
        holder.kill()
        assert waiter.stdout.readline() == b"in\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(0.1)
    finally:
        for process in (holder, waiter):
            process.kill()
            process.wait()
            process.stdout.close()
    with exclusive_folder(tmp_path):
        pass
