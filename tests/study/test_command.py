import errno

import pytest

from vtp_eqx.study.command import _room


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
