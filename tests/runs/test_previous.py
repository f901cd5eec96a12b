"""A run of the last tagged version is continued, and what lies beside it is read.

`tests.written_files` says what made `tests/golden/previous`.
"""

import json
from pathlib import Path
import shutil

import numpy as np

from tests.written_files import NUM_STEPS, NUMBERS, train
from vtp_eqx.evaluation import card
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.runs.log import read_log
from vtp_eqx.tokenizer import load


PREVIOUS = Path(__file__).parent.parent / "golden" / "previous"


def test_a_run_of_the_last_version_is_continued(tiny, data, tmp_path):
    """From its checkpoint: its first steps are not done again."""
    run = shutil.copytree(PREVIOUS / "run", tmp_path / "run")
    state = train(run, NUM_STEPS + 1, tiny, data)
    assert int(state.step) == NUM_STEPS + 1
    before = read_log(PREVIOUS / "run" / "metrics.jsonl")
    after = read_log(run / "metrics.jsonl")
    assert after[:NUM_STEPS] == before
    [expected] = read_log(PREVIOUS / "continued.jsonl")
    found = after[NUM_STEPS]
    assert found["step"] == expected["step"] == NUM_STEPS + 1
    for name in set(expected) - {"seconds"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, err_msg=name)


def test_its_tokenizer_and_card_are_read(tiny, monkeypatch):
    monkeypatch.chdir(PREVIOUS)
    assert load("run").config == tiny.tokenizer  # by a relative path too
    tokenizer = load(PREVIOUS / "tokenizer")
    assert tokenizer.is_measured
    assert tokenizer.config == tiny.tokenizer
    assert weights_hash(tokenizer) == weights_hash(load("run"))
    numbers, found = card.read(PREVIOUS / "card.json")
    assert numbers == NUMBERS
    assert found.tokenizer_hash == weights_hash(tokenizer)
    assert found.latents_hash == latents_hash(tokenizer)
    assert found.sampler is not None
    assert (found.sampler.guidance, found.labels) == (1.5, "balanced")


def test_it_is_of_a_version_that_the_changelog_has():
    version = json.loads((PREVIOUS / "version.json").read_text())["version"]
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    assert f"## [{version}] - " in changelog
