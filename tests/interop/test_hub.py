import sys
import time

import huggingface_hub.constants
import pytest

from vtp_eqx.interop.hub import download, is_hub_name
from vtp_eqx.tokenizer import load


NAME = "someone/VTP-Small-f16d64"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network: the hub is a port that nobody listens on."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MiniMaxAI/VTP-Large-f16d64", True),
        ("runs", False),
        ("./runs/one", False),
        ("../one", False),
        ("/runs", False),
        ("runs/one/two", False),
        ("a/..", False),
        ("a/b c", False),
    ],
)
def test_a_hub_name_is_an_owner_and_a_name(text, expected):
    assert is_hub_name(text) == expected


def test_without_network_it_fails_at_once_and_says_what_to_do():
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=rf"got '{NAME}'.* give their folder"):
        load(NAME)
    assert time.monotonic() - started < 10


def test_without_network_an_earlier_download_is_used(tmp_path):
    repository = tmp_path / "models--someone--VTP-Small-f16d64"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert download(NAME) == snapshot
    with pytest.raises(FileNotFoundError, match=r"got no model\.safetensors in"):
        load(NAME)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"install `vtp_eqx\[hub\]`"):
        load(NAME)
