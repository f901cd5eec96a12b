import json
from pathlib import Path
import sys
import types

import pytest

from vtp_eqx.runs.log import Log, read_log, tensorboard_sink, wandb_sink


def test_a_rewound_log_has_no_line_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path, 0)
    for step in (1, 2, 3):
        log.write(step, {"total": step / 2})
    log.rewind(2)
    log.write(3, {"total": 7.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [
        (1, 0.5), (2, 1), (3, 7),
    ]  # fmt: skip


def test_lines_that_a_disk_has_damaged_are_dropped_and_no_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [b'{"step": 1, "total": 3.0}', b'{"step": 2, "total": 2.0}']
    odd = [b"\xff\xfe", b'{"step": "2"}', b'{"step": null}', b"[" * 100_000]
    path.write_bytes(b"\n".join([whole[0], *odd, whole[1]]))
    assert [line["total"] for line in read_log(path)] == [3.0, 2.0]
    Log(path, 2)
    assert len(path.read_bytes().splitlines()) == 2


def test_a_sink_that_fails_is_dropped_and_the_run_goes_on(tmp_path, capsys):
    seen = []

    def broken(step, metrics):
        raise ConnectionError("no network")

    log = Log(tmp_path / "metrics.jsonl", 0, [broken, lambda *line: seen.append(line)])
    for step in (1, 2):
        log.write(step, {"total": float(step)})
        log.call_sinks(step, {"total": float(step)})
    assert seen == [(1, {"total": 1.0}), (2, {"total": 2.0})]
    said = capsys.readouterr().err
    assert said.count("dropped from step 1 on: ConnectionError: no network") == 1
    assert len(read_log(tmp_path / "metrics.jsonl")) == 2


def test_tensorboard_drops_what_is_done_again(tmp_path, monkeypatch):
    made, added = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, *scalar):
            added.append(scalar)

        def flush(self):
            pass

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    sink = tensorboard_sink(tmp_path)
    sink(5, {"total": 1.0})
    sink(6, {"total": 0.5})
    assert made == [(str(tmp_path), 5)]
    assert added == [("total", 1.0, 5), ("total", 0.5, 6)]


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package: what its runs were asked for, and their lines."""
    asked, logged = [], []

    class Run:
        def log(self, metrics, step):
            logged.append((step, metrics))

    def init(**arguments):
        asked.append(arguments)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return asked, logged


def test_weights_and_biases_continues_the_run_of_that_folder(tmp_path, wandb):
    asked, logged = wandb
    folder = tmp_path / "first"
    folder.mkdir()
    for step in (3, 4):
        wandb_sink("tokenizers", folder, {"seed": 0})(step, {"total": 1.0})
    assert (asked[0]["name"], asked[0]["resume"]) == ("first", "allow")
    assert (asked[0]["project"], asked[0]["config"]) == ("tokenizers", {"seed": 0})
    assert logged == [(3, {"total": 1.0}), (4, {"total": 1.0})]
    moved = folder.rename(tmp_path / "moved")
    wandb_sink("tokenizers", moved, {})
    assert len({one["id"] for one in asked}) == 1


def test_runs_in_folders_named_alike_are_different_runs(tmp_path, wandb, monkeypatch):
    asked, _ = wandb
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        wandb_sink("p", tmp_path / name / "run", {})
    monkeypatch.chdir(tmp_path / "a" / "run")
    wandb_sink("p", Path(), {})
    assert [one["name"] for one in asked] == ["run"] * 3
    first, second, again = (one["id"] for one in asked)
    assert first == again != second
    # The characters that an id may have.
    assert all(len(one) < 65 and one.isalnum() for one in (first, second))


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("tensorboardX", lambda folder: tensorboard_sink(folder)),
        ("wandb", lambda folder: wandb_sink("p", folder, {})),
    ],
)
def test_a_missing_package_is_named_with_its_extra(module, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{module}; got no such package: install"):
        make(tmp_path)


def test_a_line_without_its_end_is_not_joined_by_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "total": 3.0}')
    Log(path, 1).write(2, {"total": 2.0})
    assert [line["total"] for line in read_log(path)] == [3.0, 2.0]
