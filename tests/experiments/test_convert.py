"""The published checkpoints of `golden/`, by the command line to ours and back."""

import json
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tyro

from experiments.convert import main, Options
from vtp_eqx.config import as_json
from vtp_eqx.conversion import GENERATOR_FILE, read_model, small_models
from vtp_eqx.models.arrays import statistics_hash
from vtp_eqx.models.generator import load_generator
from vtp_eqx.models.weights import save_weights
from vtp_eqx.tokenizer import latents_hash, save, Tokenizer


GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    "vtp_released_layout_rope_fp32",
    "vtp_variant_rope_fp32",
    "lightningdit_plain",
    "lightningdit_vtp_flags",
]


def convert(*words):
    return main(tyro.cli(Options, args=[str(word) for word in words]))


@pytest.mark.parametrize("case", CASES)
def test_published_to_ours_to_published_changes_no_bit(case, tmp_path):
    assert convert(GOLDEN / case, tmp_path / "ours", "--to", "ours")
    assert convert(tmp_path / "ours", tmp_path / "back", "--to", "published")
    before = load_file(GOLDEN / case / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].shape == tensor.shape
        assert after[name].tobytes() == tensor.tobytes(), name
    settings = [
        json.loads((folder / "config.json").read_text())
        for folder in (GOLDEN / case, tmp_path / "back")
    ]
    assert settings[0] == settings[1]


def test_verifying_prints_every_tensor(capsys):
    case = GOLDEN / "lightningdit_plain"
    assert convert(case, "--verify")
    printed = capsys.readouterr().out
    for name in load_file(case / "model.safetensors"):
        assert f"published tensor  {name} " in printed
    assert "our array  dit.blocks.attention.to_qkv.weight" in printed
    assert "equal to the last bit" in printed


def test_what_does_not_come_back_fails(tmp_path, capsys):
    case = GOLDEN / "lightningdit_vtp_flags"
    tensors = load_file(case / "model.safetensors")
    # Positions in half precision come back from their formula.
    tensors["pos_embed"] = tensors["pos_embed"].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((case / "config.json").read_bytes())
    assert not convert(tmp_path, "--verify")
    assert "NOT EQUAL" in capsys.readouterr().out


def test_a_tokenizer_is_told_from_a_transformer():
    assert isinstance(read_model(str(GOLDEN / CASES[0]))[0], Tokenizer)
    assert not isinstance(read_model(str(GOLDEN / CASES[2]))[0], Tokenizer)


def test_an_older_generator_is_converted_with_its_tokenizer(tmp_path):
    models = small_models()
    tokenizer = eqx.tree_at(
        lambda t: t.latent_std, models["tokenizer"], jnp.full(8, 2.0)
    )
    save(tokenizer, tmp_path / "tokenizer")
    dit = models["dit"].dit
    notes = {"config": as_json(dit.config), "latents": statistics_hash(tokenizer)}
    older, target = tmp_path / "older.safetensors", tmp_path / "newer"
    save_weights(dit, older, notes)
    with pytest.raises(ValueError, match=r"^`tokenizer` \(None\)"):
        convert(older, target, "--to", "ours")
    given = ("--tokenizer", tmp_path / "tokenizer")
    assert convert(older, target, "--to", "ours", *given)
    found = load_generator(target / GENERATOR_FILE)
    assert found.latents_hash == latents_hash(tokenizer)


def test_nothing_to_do_is_an_error():
    with pytest.raises(ValueError, match="got no SOURCE"):
        convert()
    with pytest.raises(ValueError, match="A conversion has a TARGET"):
        convert(GOLDEN / CASES[2])
