import dataclasses
import json

import equinox as eqx
import jax
import pytest

from tests.training.examples import GENERATE, LABELS, LATENTS
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.train_generator import train_generator


@pytest.mark.slow
def test_a_snapshot_is_what_a_shorter_training_ends_with(tmp_path):
    kept = {}
    last = train_generator(
        GENERATE, LATENTS, LABELS, folder=tmp_path / "long",
        snapshot=lambda step, dit: kept.update({step: jax.device_get(dit)}),
        snapshot_steps=(2, 4), mesh=data_mesh(2),
    )  # fmt: skip
    assert sorted(kept) == [2, 4, 6]
    assert eqx.tree_equal(kept[6], jax.device_get(last))
    short = dataclasses.replace(GENERATE, num_steps=2)
    ended = train_generator(
        short, LATENTS, LABELS, folder=tmp_path / "short", mesh=data_mesh(2)
    )
    assert eqx.tree_equal(kept[2], jax.device_get(ended))
    assert not eqx.tree_equal(kept[2], kept[4])


def test_another_config_than_a_run_was_begun_with_is_refused(tmp_path):
    brief = dataclasses.replace(GENERATE, num_steps=0)
    train_generator(brief, LATENTS, LABELS, folder=tmp_path)
    written = tmp_path / "config.json"
    assert json.loads(written.read_text())["config"]["dit"]["width"] == 8
    begun = written.read_bytes()
    with pytest.raises(ValueError, match=r"^`config.time_mean` \(0.0, was -0.5\)"):
        train_generator(
            dataclasses.replace(brief, time_mean=0.0), LATENTS, LABELS, folder=tmp_path
        )
    assert written.read_bytes() == begun
    # A run of an older version has no such file, and goes on.
    written.unlink()
    train_generator(brief, LATENTS, LABELS, folder=tmp_path)
    assert written.read_bytes() == begun


def test_labels_that_are_no_classes_are_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"^Labels are 0 to .*; got .* correct them"):
        train_generator(GENERATE, LATENTS, LABELS - 1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
