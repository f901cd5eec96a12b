import os
import time

import numpy as np
import pytest

from vtp_eqx.data.changes import last_changes
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.data.mixture import Mixture
from vtp_eqx.data.sources import ArraySource, TfdsSource
from vtp_eqx.data.tars import TarSource
from vtp_eqx.scenes.render import SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = SceneConfig(num_train=24, num_validation=24)
    return prepare_scenes(config, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(params=["folder", "tar", "prepared", "mixture"])
def opened(request, tmp_path, photograph, write_tar, encoded, prepared):
    """A function that opens a source, and one of its files."""
    if request.param == "tar":
        path = write_tar(tmp_path / "a.tar", {"0.jpg": encoded(0)})
        return (lambda: TarSource(path)), path
    if request.param == "prepared":
        path = next(prepared.glob("*validation*.array_record*"))
        return (lambda: TfdsSource(prepared, "validation")), path
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    photograph.save(path)
    open_folder = lambda: FolderSource(tmp_path / "images")
    if request.param == "folder":
        return open_folder, path
    return (lambda: Mixture([open_folder(), open_folder()])), path


def test_a_file_that_was_written_again_is_noticed_and_nothing_else(opened):
    open_source, path = opened
    before = last_changes(open_source())
    assert len(before) == 12
    path.read_bytes()
    assert last_changes(open_source()) == before
    # The same name, size and time of writing, as copying tools restore it.
    status = path.stat()
    content = path.read_bytes()
    time.sleep(0.02)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert last_changes(open_source()) != before


def test_a_folder_may_be_moved_and_a_file_may_go(tmp_path, photograph):
    (tmp_path / "a").mkdir()
    for name in "xy":
        photograph.save(tmp_path / "a" / f"{name}.png")
    before = last_changes(FolderSource(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = FolderSource(tmp_path / "b")
    assert last_changes(moved) == before
    (tmp_path / "b" / "y.png").unlink()
    assert last_changes(moved) != before


def test_arrays_have_no_files():
    assert last_changes(ArraySource({"image": np.zeros((2, 4, 4, 3), np.uint8)})) == ""


def test_a_label_beside_an_image_that_was_changed_is_noticed(tmp_path, photograph):
    photograph.save(tmp_path / "0.png")
    (tmp_path / "0.cls").write_text("3")
    before = last_changes(FolderSource(tmp_path))
    time.sleep(0.02)
    (tmp_path / "0.cls").write_text("7")
    assert last_changes(FolderSource(tmp_path)) != before
