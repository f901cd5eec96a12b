import io
import json
from pathlib import Path
import signal
import subprocess
import sys
import tarfile
import time

import equinox as eqx
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from experiments.evaluate import run
from vtp_eqx.config import TokenizerConfig, VIT_FEMTO
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.scenes.render import render, SceneConfig
from vtp_eqx.tokenizer import save, Tokenizer


SCRIPT = Path(__file__).parents[2] / "experiments" / "evaluate.py"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    config = TokenizerConfig(
        encoder=VIT_FEMTO, decoder=VIT_FEMTO, image_size=32, patch_size=8
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    save(eqx.filter_jit(Tokenizer)(config, key=jr.key(0)), folder)
    return folder


def command(tokenizer, data, out, *words):
    given = ("rfid", "--tokenizer", tokenizer, "--data", data, "--out", out, *words)
    return [*map(str, given)]


def evaluate(tokenizer, data, out, *words):
    """What the script does, in this process, so that all compile once."""
    with exit_with_message(ValueError, OSError, ImportError):
        run(command(tokenizer, data, out, *words))


@pytest.mark.slow
def test_a_killed_evaluation_continues_and_ends_equal(tokenizer, tmp_path):
    data = tmp_path / "scenes.npz"
    np.savez(data, arr_0=render(SceneConfig(), np.arange(1600)).image)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    words = command(tokenizer, data, tmp_path / "killed")
    script = subprocess.Popen([sys.executable, str(SCRIPT), *words])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("rows-*.npz")):
        assert script.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    script.send_signal(signal.SIGKILL)
    script.wait()
    assert not (tmp_path / "killed" / "card_reconstruction.json").exists()
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("rows-*")
    }
    for name in ("whole", "killed"):
        evaluate(tokenizer, data, tmp_path / name)
    cards = [
        (tmp_path / name / "card_reconstruction.json").read_text()
        for name in ("whole", "killed")
    ]
    assert cards[0] == cards[1]
    # What was whole when it was killed was not taken again.
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_files_that_are_no_images_are_named_and_the_rest_is_judged(
    tokenizer, tmp_path, capsys
):
    folder = tmp_path / "images"
    folder.mkdir()
    scenes = render(SceneConfig(), np.arange(6)).image
    for row, image in enumerate(scenes):
        Image.fromarray(image).resize((50 + row, 60)).save(folder / f"{row}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    evaluate(tokenizer, folder, out)
    printed = capsys.readouterr().out
    assert "1 files are no images by name: notes.txt" in printed
    assert "1 files could not be read: 3.png" in printed
    content = json.loads((out / "card_reconstruction.json").read_text())
    assert content["card"]["num_samples"] == 5
    assert content["card"]["num_skipped"] == 1
    assert content["skipped"].keys() == {"3.png"}
    with pytest.raises(SystemExit, match="got 5 of 6"):
        evaluate(tokenizer, folder, out, "--num-samples", 6)


@pytest.mark.slow
def test_tars_are_judged_as_the_same_images_in_a_folder(tokenizer, tmp_path, capsys):
    scenes = render(SceneConfig(), np.arange(6)).image
    tars, folder = tmp_path / "tars", tmp_path / "folder"
    for place in (tars, folder):
        place.mkdir()
    for row, image in enumerate(scenes):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        (folder / f"{row}.png").write_bytes(content.getvalue())
        with tarfile.open(tars / f"{row // 4}.tar", "a") as tar:
            member = tarfile.TarInfo(f"{row}.png")
            member.size = len(content.getvalue())
            tar.addfile(member, io.BytesIO(content.getvalue()))
    numbers = []
    for data in (tars / "{0,1}.tar", folder):
        out = tmp_path / "out" / str(len(numbers))
        evaluate(tokenizer, data, out)
        content = json.loads((out / "card_reconstruction.json").read_text())
        numbers.append((content["numbers"], content["card"]["num_samples"]))
    assert numbers[0] == numbers[1]

    last = tars / "1.tar"
    last.write_bytes(last.read_bytes()[:700])
    capsys.readouterr()
    evaluate(tokenizer, tars, tmp_path / "cut")
    printed = capsys.readouterr().out
    assert "1 tars are damaged: 1.tar (cut in the middle of 4.png" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluate.py", "rfid", "--tokenizer", "nowhere", "--data", "."], "nowhere"),
        (["convert.py", "nowhere", "there"], "nowhere"),
    ],
)
def test_an_error_is_a_sentence_and_no_traceback(words, sentence, tmp_path):
    name, *rest = words
    done = subprocess.run(
        [sys.executable, str(SCRIPT.with_name(name)), *rest],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
