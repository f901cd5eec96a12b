"""No script takes the address of a bucket for a folder on this machine."""

from pathlib import Path
import runpy
import sys

import pytest


SCRIPTS = Path(__file__).parents[2] / "experiments"
COMMANDS = {
    "adapt_encoder": [["--tokenizer", "t", "--data", "x", "--out", "gs://bucket/run"]],
    "bisect_recipe": [["--smoke", "--out", "gs://bucket/run"]],
    "compare_finetuning": [["--smoke", "--out", "gs://bucket/run"]],
    "compare_emoji": [
        ["--smoke", "--runs", "gs://bucket/run"],
        ["--tars", "s3://bucket/tars"],
    ],
    "compare_convergence": [["--smoke", "--runs", "gs://bucket/run"]],
    "compare_objectives": [["--smoke", "--runs", "s3://bucket/run"]],
    "compare_rivals": [["--smoke", "--runs", "gs://bucket/run"]],
    "convert": [["model", "gs://bucket/run"], ["https://a.b/model", "copy"]],
    "evaluate": [
        ["rfid", "--tokenizer", "t", "--data", "x", "--out", "gs://bucket/run"],
        ["gfid", "--reference", "r", "--size", "32", "--data", "s3://bucket/x"],
        ["probe", "--tokenizer", "t", "--data", "x", "--train", "https://a.b/c.tar"],
    ],
    "extract_latents": [
        ["--tokenizer", "t", "--data", "x", "--out", "gs://bucket/run"],
        ["--tokenizer", "t", "--data", "x", "s3://bucket/{0..3}.tar"],
    ],
    "finetune_decoder": [
        ["--tokenizer", "t", "--data", "x", "--out", "gs://bucket/run"],
        ["--tokenizer", "t", "--data", "s3://bucket/x"],
    ],
    "gallery": [
        ["--smoke", "--out", "gs://bucket/run"],
        ["--tokenizers", "t", "--data", "s3://bucket/x"],
    ],
    "make_emoji_tars": [["--out", "gs://bucket/run"]],
    "make_scenes_tars": [["--out", "gs://bucket/run"]],
    "predict_generation": [
        ["--smoke", "--runs", "gs://bucket/run"],
        ["--reuse-results", "https://a.b/panel.json"],
    ],
    "pretrain": [["--out", "gs://bucket/run"], ["--data", "https://a.b/c.tar"]],
    "sample": [["--tokenizer", "t", "--generator", "g", "--out", "gs://bucket/run"]],
    "scale_compute": [["--smoke", "--out", "gs://bucket/run"]],
    "scale_data": [["--smoke", "--out", "gs://bucket/run"]],
    "scale_decoder": [["--smoke", "--runs", "s3://bucket/run"]],
    "scale_encoder": [["--smoke", "--reuse-results", "https://a.b/runs.json"]],
    "scale_latents": [["--smoke", "--runs", "gs://bucket/run"]],
    "train_generator": [["--latents", "l", "--out", "gs://bucket/run"]],
    "weigh_losses": [["--smoke", "--runs", "gs://bucket/run"]],
    "train_scene_network": [["--smoke", "--folder", "gs://bucket/run"]],
}


def test_every_script_is_tried():
    assert COMMANDS.keys() == {path.stem for path in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, words) for name, commands in COMMANDS.items() for words in commands],
)
def test_an_address_ends_a_script_with_a_sentence_and_no_file(
    name, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    path = SCRIPTS / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    monkeypatch.syspath_prepend(SCRIPTS.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    printed = "".join(capsys.readouterr())
    # Parsers of options draw a box around the sentence.
    words = " ".join(f"{ended.value.code} {printed}".replace("│", " ").split())
    assert "must be a path on this machine" in words
    assert ended.value.code not in (0, None)
    assert not list(tmp_path.iterdir())
