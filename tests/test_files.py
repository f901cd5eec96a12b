import dataclasses
from pathlib import Path
import subprocess
import sys
import time

import pytest

from vtp_eqx.files import (
    atomic_path,
    cache_folder,
    exclusive_folder,
    require_local,
    require_local_fields,
)


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


@pytest.mark.parametrize(
    "path",
    ["gs://bucket/run", "S3://b/x", Path("gs://bucket/run"), "https://a.b/c.tar"],
)
def test_an_address_is_no_folder_here(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^`out` \(\w+://.*on this machine.*mount"):
        require_local(path, "out")
    with pytest.raises(ValueError, match="on this machine"), atomic_path(path):
        pass
    with (
        pytest.raises(ValueError, match="on this machine"),
        exclusive_folder(Path(path)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_address_is_told_its_path():
    with pytest.raises(ValueError, match="write it as /data/x"):
        require_local("file:///data/x", "data")


@pytest.mark.parametrize(
    "path", ["imagenet:train", "a/b:train[:50%]", "C:/data", "owner/name", "", "a//b"]
)
def test_paths_with_colons_are_paths(path):
    require_local(path, "data")


@dataclasses.dataclass
class Options:
    out: Path = Path("runs")
    data: tuple[str, ...] = ()
    origin: str = ""


def test_every_field_of_options_is_looked_at_but_those_of_words():
    fine = Options(data=("a", "b"), origin="https://github.com/a/b")
    require_local_fields(fine, words=("origin",))
    for name, options in (
        ("out", Options(out=Path("gs://b/x"))),
        ("data", Options(data=("a", "s3://b/x"))),
        ("origin", fine),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` "):
            require_local_fields(options)


def test_a_user_without_a_home_has_no_cache(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vtp_eqx"
