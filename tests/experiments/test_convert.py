"""The published checkpoints of `golden/`, by the command line to ours and back."""

import functools
import json
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tyro

from experiments.convert import main, Options
from vtp_eqx.config import as_json
from vtp_eqx.conversion import GENERATOR_FILE, read_model, small_models
from vtp_eqx.models.arrays import statistics_hash
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.weights import save_weights
from vtp_eqx.tensor_files import TorchFile
from vtp_eqx.tokenizer import latents_hash, load, save, Tokenizer


GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    "vtp_released_layout_rope_fp32",
    "vtp_variant_rope_fp32",
    "lightningdit_plain",
    "lightningdit_vtp_flags",
]


# Made once: they are drawn of their shapes, which takes a second to find.
models = functools.cache(small_models)


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


def test_nothing_to_convert_is_refused():
    with pytest.raises(ValueError, match=r"^There is something to convert; got no SO"):
        convert()


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
    tokenizer = models()[0]
    save(tokenizer, tmp_path / "tokenizer")
    dit = models()[1].dit
    notes = {"config": as_json(dit.config), "latents": statistics_hash(tokenizer)}
    older, target = tmp_path / "older.safetensors", tmp_path / "newer"
    save_weights(dit, older, notes)
    with pytest.raises(ValueError, match=r"^`tokenizer` \(None\)"):
        convert(older, target, "--to", "ours")
    given = ("--tokenizer", tmp_path / "tokenizer")
    assert convert(older, target, "--to", "ours", *given)
    found = load_generator(target / GENERATOR_FILE)
    assert found.latents_hash == latents_hash(tokenizer)


def test_a_tokenizer_goes_to_diffusers_and_back(tmp_path, capsys):
    tokenizer = models()[0]
    save(tokenizer, tmp_path / "ours")
    folder = tmp_path / "diffusers"
    assert convert(tmp_path / "ours", folder, "--to", "diffusers", "--verify")
    assert (
        "published tensor  encoder.blocks.1.to_qkv.weight " in capsys.readouterr().out
    )
    assert (folder / "autoencoder_vtp.py").is_file()
    assert convert(folder, "--verify")  # in its own format
    assert (
        "published tensor  encoder.blocks.1.to_qkv.weight " in capsys.readouterr().out
    )
    assert convert(folder, tmp_path / "back", "--to", "ours")
    assert eqx.tree_equal(load(tmp_path / "back"), tokenizer)


def test_a_generator_goes_to_lightningdit_and_back_with_its_latents(tmp_path):
    tokenizer = models()[0]
    save(tokenizer, tmp_path / "tokenizer")
    generator = Generator(models()[1].dit, latents_hash(tokenizer))
    save_generator(generator, tmp_path / GENERATOR_FILE)
    file = tmp_path / "lightningdit" / "generator.pt"
    assert convert(tmp_path / GENERATOR_FILE, file, "--verify")
    with TorchFile(file) as checkpoint:
        assert checkpoint.content.keys() == {"model", "ema"}
    for part in ("model", "ema"):
        convert(file, tmp_path / part, "--to", "ours", "--part", part)
        # Which also is the tokenizer that sampling wants.
        back = load_generator(tmp_path / part, tokenizer)
        assert eqx.tree_equal(back, generator)

    config = file.with_name("config.json")
    settings = json.loads(config.read_text())
    assert settings.pop("latents_hash") == latents_hash(tokenizer)
    config.write_text(json.dumps(settings))  # as LightningDiT's own are
    convert(file, tmp_path / "unbound", "--to", "ours")
    assert load_generator(tmp_path / "unbound").latents_hash == ""
    given = ("--tokenizer", tmp_path / "tokenizer")
    assert convert(file, tmp_path / "bound", "--to", "ours", *given, "--verify")
    assert eqx.tree_equal(load_generator(tmp_path / "bound"), generator)
    config.write_text(json.dumps({**settings, "latents_hash": "another"}))
    with pytest.raises(ValueError, match=r"^`tokenizer` .* \(latents another\)"):
        convert(file, tmp_path / "wrong", "--to", "ours", *given)
    config.write_text(json.dumps({**settings, "latents_hash": 3}))
    with pytest.raises(ValueError, match=r"^`latents_hash` \(3\) must be a text"):
        convert(file, tmp_path / "wrong", "--to", "ours")


def test_a_target_that_does_not_fit_is_named(tmp_path):
    dit, golden = GOLDEN / CASES[2], GOLDEN / CASES[0]
    with pytest.raises(ValueError, match=r"^`to` \('diffusers'\) is a layout of tok"):
        convert(dit, tmp_path / "x", "--to", "diffusers")
    with pytest.raises(
        ValueError, match=r"^`target` .*x\.pt\) must be a folder, for a"
    ):
        convert(golden, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"^`target` .* must be a folder with `to` 'o"):
        convert(dit, tmp_path / "x.pt", "--to", "ours")
    (tmp_path / "config.json").write_text('{"config": {"seed": 0}}')
    for target in (tmp_path, tmp_path / "x.pt"):
        with pytest.raises(ValueError, match=r"^`target` .* would replace the config"):
            convert(dit, target)
    with pytest.raises(ValueError, match=r"^`tokenizer` .* must have measured latent"):
        convert(golden, tmp_path / "x", "--to", "diffusers")


def test_nothing_to_do_is_an_error():
    with pytest.raises(ValueError, match="got no SOURCE"):
        convert()
    with pytest.raises(ValueError, match="A conversion has a TARGET"):
        convert(GOLDEN / CASES[2])
