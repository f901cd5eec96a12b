import sys

import pytest

from experiments.extract_latents import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--verify"], r"^`out` \(.*\) must have an index.json of latents"),
        (
            ["--tokenizer", "x", "--data", "/nonexistent"],
            r"^Images are read from a folder; got /nonexistent",
        ),
    ],
)
def test_a_mistake_is_its_sentence_alone(arguments, sentence, tmp_path, monkeypatch):
    out = ["--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["extract_latents.py", *out, *arguments])
    with pytest.raises(SystemExit, match=sentence):
        main()
