"""Found in a fixed order, taken only whole, and missed in one helpful sentence."""

import gzip
import hashlib
import io
import sys
import urllib.error

import pytest

from vtp_eqx.data.text import clip_vocabulary
from vtp_eqx.data.text.clip_vocabulary import (
    ADDRESS,
    find_vocabulary,
    NAME,
    read_vocabulary,
    SHA256,
    VARIABLE,
)


SMALL = gzip.compress(b"header\nt h\nth e</w>", mtime=0)


class Web:
    """Answers every address with `content`, or is offline."""

    def __init__(self):
        self.content, self.asked = None, []

    def __call__(self, address, timeout):
        assert timeout <= 10
        self.asked.append(address)
        if self.content is None:
            raise urllib.error.URLError("Name or service not known")
        return io.BytesIO(self.content)


@pytest.fixture
def web(monkeypatch):
    web = Web()
    monkeypatch.setattr("urllib.request.urlopen", web)
    return web


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path, web):
    """No variable, no open_clip, an empty cache."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.fixture
def small_is_published(monkeypatch):
    digest = hashlib.sha256(SMALL).hexdigest()
    monkeypatch.setattr(clip_vocabulary, "SHA256", digest)


def test_the_variable_goes_before_open_clip_the_cache_and_the_web(
    monkeypatch, tmp_path, web, small_is_published
):
    web.content = SMALL
    downloaded = tmp_path / "caches" / "vtp_eqx" / NAME
    assert find_vocabulary() == downloaded
    assert web.asked == [ADDRESS]
    assert find_vocabulary() == downloaded  # from the cache
    assert len(web.asked) == 1

    package = tmp_path / "packages" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never to be imported')")
    monkeypatch.undo()
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    assert find_vocabulary() == downloaded  # that open_clip has no such file
    (package / NAME).write_bytes(SMALL)
    assert find_vocabulary() == package / NAME

    by_variable = tmp_path / "variable.gz"
    by_variable.write_bytes(SMALL)
    monkeypatch.setenv(VARIABLE, str(by_variable))
    assert find_vocabulary() == by_variable


def test_the_lines_are_those_of_the_file(tmp_path, monkeypatch, small_is_published):
    (tmp_path / "small.gz").write_bytes(SMALL)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "small.gz"))
    assert read_vocabulary() == ["header", "t h", "th e</w>"]


@pytest.mark.parametrize("what", ["missing", "."])
def test_a_named_file_that_is_none_is_not_replaced_by_another(
    what, monkeypatch, tmp_path, web
):
    web.content = SMALL
    monkeypatch.setenv(VARIABLE, str(tmp_path / what))
    with pytest.raises(FileNotFoundError, match="must be a file") as caught:
        read_vocabulary()
    assert not web.asked
    for needed in (ADDRESS, SHA256, VARIABLE):
        assert needed in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SMALL, "gzip"),
        (SMALL[:-9], "gzip"),
        (b"", "an empty file"),
        (b"<html>sign in first</html>", "an HTML page"),
    ],
)
def test_anything_but_the_whole_published_file_is_refused(
    content, words, monkeypatch, tmp_path
):
    path = tmp_path / NAME
    path.write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(path))
    digest = hashlib.sha256(content).hexdigest()
    message = rf"published.*\({words}.*{digest} from .*{NAME}"
    with pytest.raises(ValueError, match=message):
        read_vocabulary()


def test_offline_one_sentence_says_how_to_supply_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        read_vocabulary()
    message = str(caught.value)
    for needed in (NAME, ADDRESS, SHA256, VARIABLE, "Name or service not known"):
        assert needed in message
    assert "pip install --no-deps open_clip_torch" in message
    assert "\n" not in message
    assert message.endswith(".")


def test_a_download_of_something_else_leaves_nothing(tmp_path, web):
    web.content = b"<html>sign in first</html>"
    with pytest.raises(ValueError, match=f"published.*from {ADDRESS}"):
        find_vocabulary()
    assert not (tmp_path / "caches").exists()


def test_without_a_home_one_sentence_says_how_to_supply_the_file(
    tmp_path, monkeypatch, web
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", homeless)
    with pytest.raises(FileNotFoundError, match=r"no home folder .*open_clip_torch"):
        find_vocabulary()
    assert not web.asked
    (tmp_path / "small.gz").write_bytes(SMALL)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "small.gz"))
    assert find_vocabulary() == tmp_path / "small.gz"


def homeless():
    """What pathlib does for a user without a home and without an entry in passwd."""
    raise RuntimeError("Could not determine home directory.")
