import errno
import os
import subprocess
import sys
import time

import pytest

from vtp_eqx.training import run_dir as module
from vtp_eqx.training.run_dir import (
    check_data_unchanged,
    check_disk_space,
    disk_errors,
    lock_folder,
    write_config,
)
from vtp_eqx.training.watchdog import StallConfig


HOLD = """
import pathlib, sys, time
from vtp_eqx.training.run_dir import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"in\n"
        with (
            pytest.raises(RuntimeError, match=f"one writer .* process {holder.pid} on"),
            lock_folder(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    # Killed, it let go: nobody has to remove a file.
    with lock_folder(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / module.LOCK).read_text()


def test_a_folder_is_free_again_behind_the_block(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path / "new"):
            pass


def test_too_little_room_is_said_with_both_numbers(tmp_path):
    check_disk_space(tmp_path, 1)
    with pytest.raises(OSError, match=r"needs 1e\+06 GB of free disk; got .* GB at"):
        check_disk_space(tmp_path, 1e15)


def test_a_folder_that_cannot_be_written_is_said_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"a folder that it can write to; got .*file"):
        check_disk_space(tmp_path / "file", 1)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        # So does the library speak that writes checkpoints.
        ValueError(f"RESOURCE_EXHAUSTED: Error writing: {os.strerror(errno.ENOSPC)}"),
    ],
)
def test_a_full_disk_is_one_sentence_whoever_notices(error, tmp_path):
    with (
        pytest.raises(
            OSError, match="needs room to write; got a full disk at"
        ) as found,
        disk_errors(tmp_path),
    ):
        raise error
    assert found.value.errno == errno.ENOSPC


def test_another_error_passes_as_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"^odd$"), disk_errors(tmp_path):
        raise ValueError("odd")


def test_a_lock_does_not_wait(tmp_path):
    with lock_folder(tmp_path):
        begun = time.monotonic()
        with pytest.raises(RuntimeError), lock_folder(tmp_path):
            pass
        assert time.monotonic() - begun < 1


def test_a_run_goes_on_with_the_data_it_was_begun_on(tmp_path):
    check_data_unchanged(tmp_path, "12 examples 3f2a")  # nothing was begun
    write_config(tmp_path, StallConfig(), "12 examples 3f2a")
    check_data_unchanged(tmp_path, "12 examples 3f2a")
    with pytest.raises(
        ValueError, match=r"got '13 examples 3f2a', and '12 examples 3f2a' in .*data"
    ):
        check_data_unchanged(tmp_path, "13 examples 3f2a")
