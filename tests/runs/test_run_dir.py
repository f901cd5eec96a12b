import dataclasses
import errno
import os
import subprocess
import sys

import pytest

from vtp_eqx.config import DecodeConfig, PretrainConfig, published, VIT_FEMTO
from vtp_eqx.runs import run_dir as module
from vtp_eqx.runs.run_dir import (
    check_config_unchanged,
    check_data_unchanged,
    check_disk_space,
    disk_errors,
    lock_folder,
    read_config,
    write_config,
)


DECODE = DecodeConfig(decoder=VIT_FEMTO)
HOLD = """
import pathlib, sys, time
from vtp_eqx.runs.run_dir import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
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


def test_a_run_goes_on_with_the_data_it_was_begun_on(tmp_path):
    check_data_unchanged(tmp_path, "12 examples 3f2a")  # nothing was begun
    write_config(tmp_path, DECODE, data="12 examples 3f2a")
    check_data_unchanged(tmp_path, "12 examples 3f2a")
    with pytest.raises(
        ValueError, match=r"got '13 examples 3f2a', and '12 examples 3f2a' in .*data"
    ):
        check_data_unchanged(tmp_path, "13 examples 3f2a")


def test_a_changed_config_is_refused_by_field_value_and_fix(tmp_path):
    check_config_unchanged(tmp_path, DECODE)  # nothing was begun
    write_config(tmp_path, DECODE)
    check_config_unchanged(tmp_path, DECODE)
    optimizer = dataclasses.replace(DECODE.optimizer, b1=0.5)
    with pytest.raises(ValueError) as found:  # noqa: PT011 - all of it is compared
        check_config_unchanged(
            tmp_path, dataclasses.replace(DECODE, optimizer=optimizer, seed=3)
        )
    assert str(found.value) == (
        "`config.optimizer.b1` (0.5, was 0.9), `config.seed` (3, was 0) may not differ "
        f"from what the run in {tmp_path} was begun with: restore the old values, or "
        "choose another folder."
    )


def test_how_a_step_fits_onto_its_devices_may_change(tmp_path):
    write_config(tmp_path, DECODE)
    decoder = dataclasses.replace(DECODE.decoder, remat="full")
    changed = dataclasses.replace(DECODE, decoder=decoder)
    check_config_unchanged(tmp_path, changed)
    write_config(tmp_path, changed)
    assert read_config(tmp_path)["config"]["decoder"]["remat"] == "full"


def test_options_of_a_script_stay_when_the_library_continues_its_run(tmp_path):
    @dataclasses.dataclass
    class Options:
        config: DecodeConfig
        window: int = 16

    write_config(tmp_path, DECODE, Options(DECODE, 3))
    check_config_unchanged(tmp_path, DECODE)
    write_config(tmp_path, DECODE)
    assert read_config(tmp_path)["window"] == 3
    with pytest.raises(ValueError, match=r"^`window` \(16, was 3\) may not differ"):
        check_config_unchanged(tmp_path, DECODE, Options(DECODE), ["window"])


def test_a_run_of_another_kind_is_refused(tmp_path):
    write_config(tmp_path, DECODE)
    other = PretrainConfig(tokenizer=published(VIT_FEMTO), distillation_weight=0.0)
    with pytest.raises(ValueError, match="whose config is no PretrainConfig"):
        check_config_unchanged(tmp_path, other)


@pytest.mark.parametrize(
    "text", ['{"config": {"dec', "[]", '{"format": "x", "config": {}}', '{"a": 1}']
)
def test_a_config_of_something_else_is_refused_and_stays(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    for touch in (check_config_unchanged, write_config):
        with pytest.raises(ValueError, match=r"a config.json that is damaged or"):
            touch(tmp_path, DECODE)
    assert (tmp_path / "config.json").read_text() == text


def test_a_folder_that_cannot_be_made_is_not_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"a folder that it can write to; got .*run"),
        lock_folder(tmp_path / "file" / "run"),
    ):
        pass
