import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.tars import TarSource
from vtp_eqx.scenes.render import render, SceneConfig


SCRIPT = Path(__file__).parents[2] / "experiments" / "make_scenes_tars.py"
SMALL = ("--num", 50, "--per-shard", 16)


def make(out, *words):
    command = [sys.executable, SCRIPT, "--out", out, *SMALL, *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.slow
def test_tars_hold_the_scenes_and_grow_by_whole_shards(tmp_path):
    assert make(tmp_path, "--num", 32).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert len(before) == 2
    assert "2 of them new" in make(tmp_path).stdout
    assert (
        before.items()
        < {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")}.items()
    )

    source = TarSource(tmp_path)
    assert source.shard_sizes.tolist() == [16, 16, 16, 2]
    scenes = render(SceneConfig(), np.arange(50))
    for row in (0, 17, 49):
        example = source[row]
        np.testing.assert_array_equal(example["image"], scenes.image[row])
        assert example["caption"] == scenes.caption[row]
        assert example["label"] == scenes.label[row]
    names = (tmp_path / "classes.txt").read_text().splitlines()
    for caption, label in zip(scenes.caption, scenes.label, strict=True):
        assert names[label].split()[0] in caption  # the color

    refused = make(tmp_path, "--seed", 1)
    assert refused.returncode != 0
    assert "one kind" in refused.stderr


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(tmp_path):
    options = (
        "--format",
        "jpg",
        "--size",
        48,
        "--split",
        "validation",
        "--corrupt",
        0.5,
    )
    for name, workers in (("one", 1), ("two", 2)):
        assert make(tmp_path / name, *options, "--workers", workers).returncode == 0
    for path in (tmp_path / "one").glob("*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    source, reasons = TarSource(tmp_path / "one"), []
    for row in range(len(source)):
        try:
            example = source[row]
        except UnreadableImageError as error:
            reasons.append(error.reason)
            continue
        assert example["image"].shape == (48, 48, 3)
        reasons.append(example["repair"] or ("" if example["caption"] else "none"))
    assert 40 < len(source) < 50  # some have no image
    spoiled = [reason for reason in reasons if reason]
    assert 10 < len(spoiled) + 50 - len(source) < 40
    for reason in ("an empty file", "none", "not UTF-8", "cut at 4096"):
        assert any(reason in found for found in spoiled)
    record = json.loads((tmp_path / "one" / "scenes.json").read_text())
    assert record["corrupt"] == 0.5


@pytest.mark.slow
def test_the_smoke_run_reads_what_it_wrote():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--smoke"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "examples with images" in done.stdout
