import json
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import tyro

from experiments import make_scenes_tars
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.tars import TarSource
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.scenes.render import render, SceneConfig


SCRIPT = Path(__file__).parents[2] / "experiments" / "make_scenes_tars.py"
SMALL = ("--num", 50, "--per-shard", 16)


def make(out, *words):
    """What the script does, in this process."""
    arguments = list(map(str, ["--out", out, *SMALL, *words]))
    make_scenes_tars.make(tyro.cli(make_scenes_tars.Options, args=arguments))


def make_by_script(out, *words):
    command = [sys.executable, SCRIPT, "--out", out, *SMALL, *words]
    return subprocess.run(list(map(str, command)))


@pytest.mark.slow
def test_tars_hold_the_scenes_and_grow_by_whole_shards(tmp_path, capsys):
    make(tmp_path, "--num", 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert len(before) == 2
    make(tmp_path)
    assert "2 of them new" in capsys.readouterr().out
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

    with pytest.raises(SystemExit, match="one kind"), exit_with_message(ValueError):
        make(tmp_path, "--seed", 1)


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
    make(tmp_path / "one", *options)
    done = make_by_script(tmp_path / "two", *options, "--workers", 2)
    assert done.returncode == 0
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
def test_the_smoke_run_reads_what_it_wrote(capsys):
    make_scenes_tars.smoke()
    assert "examples with images" in capsys.readouterr().out


def test_a_folder_of_more_scenes_is_not_one_of_fewer(tmp_path):
    few, more = (
        make_scenes_tars.Options(out=tmp_path, num=number, per_shard=16)
        for number in (32, 64)
    )
    for options in (few, more, more):
        make_scenes_tars.check_record(options)
    with pytest.raises(ValueError, match=r"one kind; got .* with {'num': 64}"):
        make_scenes_tars.check_record(few)
