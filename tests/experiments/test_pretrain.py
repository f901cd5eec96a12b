import dataclasses
import json
from pathlib import Path
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.pretrain import main, PRESETS, pretrain
from vtp_eqx.config import (
    as_json,
    decoder_like,
    from_dict,
    PretrainConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.runs.loop import TERMINATED
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.runs.pretrain_setup import reopen_pretraining
from vtp_eqx.runs.run_dir import FolderInUseError, lock_folder, write_config
from vtp_eqx.tokenizer import load


SCRIPT = Path(__file__).parents[2] / "experiments" / "pretrain.py"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_read_back_from_what_a_run_writes(name):
    _, options = PRESETS[name]
    assert from_dict(PretrainOptions, json.loads(as_json(options))) == options


@pytest.fixture
def own_cache():
    """Keeps a run's compilation cache from the tests that follow."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def options(tmp_path, own_cache) -> PretrainOptions:
    """A run on a few images, of which only reconstructing is learned."""
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((8, 16, 16, 3), np.uint8))
    shape = TransformerConfig(width=16, depth=1, num_heads=2)
    config = PretrainConfig(
        tokenizer=TokenizerConfig(
            encoder=shape,
            decoder=decoder_like(shape),
            text=TextConfig(context=4, vocabulary=300, width=8, depth=1, num_heads=2),
            image_size=16,
            patch_size=4,
        ),
        contrast_weight=0.0,
        distillation_weight=0.0,
        batch_size=8,
        reconstruction_batch=8,
    )
    data = (str(tmp_path / "images.npz"),)
    return PretrainOptions(
        config=config, out=str(tmp_path / "runs" / "first"), data=data
    )


def test_an_error_of_data_is_its_sentence_alone(tmp_path, own_cache, monkeypatch):
    out = str(tmp_path / "run")
    arguments = ["laptop", "--data", "/nonexistent", "--out", out]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    # What is no number is printed, and nothing else.
    sentence = (
        "Images are read from a folder; got /nonexistent (No such file or directory): "
        "check the path."
    )
    assert ended.value.code == sentence


def test_a_wrong_size_is_a_sentence_before_the_run(options):
    with pytest.raises(SystemExit, match="divide evenly over devices"):
        pretrain(dataclasses.replace(options, devices=3))


def test_a_missing_extra_is_a_sentence_before_the_run(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SystemExit, match="got no such package: install"):
        pretrain(dataclasses.replace(options, devices=1, tensorboard=True))


def test_a_folder_in_use_is_left_as_it_is(options):
    out = Path(options.out)
    with lock_folder(out):
        (out / "config.json").write_text("what the first one wrote")
        with pytest.raises(FolderInUseError, match="one writer at a time"):
            pretrain(options)
        assert (out / "config.json").read_text() == "what the first one wrote"
        assert {path.name for path in out.iterdir()} == {"config.json", "run.lock"}


def test_other_data_than_the_run_was_begun_on_is_refused(options):
    out = Path(options.out)
    write_config(out, options.config, options, "9 examples of others")
    with pytest.raises(SystemExit, match="data it was begun on; got '8 examples"):
        pretrain(dataclasses.replace(options, devices=1))


def test_a_run_is_looked_at_again_on_one_device_and_wherever_it_is(options, tmp_path):
    config = dataclasses.replace(options.config, contrast_weight=1.0)
    begun = dataclasses.replace(options, config=config, devices=64)
    write_config(Path(begun.out), begun.config, begun, "")
    train_tokenizer(["a red dot", "a dot"], 300).save(Path(begun.out) / "words.json")
    moved = Path(begun.out).rename(tmp_path / "moved")
    setting = reopen_pretraining(moved, load)
    assert setting.mesh.devices.size == 1
    assert setting.out == moved
    assert setting.words is not None
    # Not learned anew, for which there are no captions.
    assert setting.words.vocabulary <= 300


@pytest.mark.slow
def test_a_terminated_run_says_so_by_its_status_and_is_continued(tmp_path):
    out, images = tmp_path / "run", tmp_path / "images.npz"
    draw = np.random.default_rng(0)
    np.savez(images, arr_0=draw.integers(0, 256, (64, 32, 32, 3)).astype(np.uint8))
    command = [
        sys.executable, str(SCRIPT), "laptop", "--out", str(out), "--num-eval", "8",
        "--config.num-steps", "100000", "--log-every", "1", "--devices", "1",
        "--evaluate-every", "100000", "--data", str(images),
        # The smallest of its networks and one term: they compile sooner.
        "--config.contrast-weight", "0", "--config.distillation-weight", "0",
        "--config.tokenizer.encoder.depth", "1",
        "--config.tokenizer.encoder.remat", "none",
        "--config.tokenizer.decoder.remat", "none",
    ]  # fmt: skip
    log = out / "metrics.jsonl"
    for _ in range(2):
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        with (tmp_path / "output.txt").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while not log.exists() or len(log.read_text().splitlines()) < lines + 3:
                said = (tmp_path / "output.txt").read_text()
                assert process.poll() is None, said[-2000:]
                time.sleep(0.1)
            process.terminate()
            assert process.wait(60) == TERMINATED
        finally:
            process.kill()
            process.wait()
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


def test_a_preset_without_the_weights_of_lpips_ends_before_anything_is_made(tmp_path):
    out = tmp_path / "new" / "run"
    _, options = PRESETS["S-1-gpu"]
    with pytest.raises(SystemExit, match=r"LPIPS needs .* `--perceptual`"):
        pretrain(dataclasses.replace(options, out=str(out), devices=1))
    assert not (tmp_path / "new" / "scenes").exists()
