"""Checkpoints as LightningDiT's training writes them, made here without torch."""

import json
from pathlib import Path
import pickle
import shutil
import zipfile

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.interop.lightningdit import (
    dit_from_published,
    read_published,
    save_published_dit,
)
from vtp_eqx.tensor_files import write_torch_file


GOLDEN = Path(__file__).parents[2] / "golden" / "lightningdit_vtp_flags"
TENSORS = load_file(GOLDEN / "model.safetensors")


def load_published_dit(where, part="ema"):
    return dit_from_published(*read_published(where, part))


@pytest.fixture(scope="module")
def dit():
    return load_published_dit(GOLDEN)


def test_a_model_survives_the_disk(dit, tmp_path):
    save_published_dit(dit, tmp_path)
    assert eqx.tree_equal(load_published_dit(tmp_path), dit)
    assert eqx.tree_equal(load_published_dit(tmp_path / "model.safetensors"), dit)
    found = load_file(tmp_path / "model.safetensors")
    for name, tensor in TENSORS.items():
        assert found[name].tobytes() == tensor.tobytes(), name
    golden = json.loads((GOLDEN / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == golden


def test_the_part_that_is_asked_for_is_read(dit, tmp_path):
    shutil.copy(GOLDEN / "config.json", tmp_path)
    trained = {
        f"module.{name}": 2 * tensor if name.startswith("blocks") else tensor
        for name, tensor in TENSORS.items()
    }
    path = tmp_path / "0100000.pt"
    write_torch_file(path, {"ema": TENSORS, "model": trained})
    assert eqx.tree_equal(load_published_dit(path), dit)
    other = load_published_dit(path, part="model")
    weight = dit.blocks.attention.to_out.weight
    np.testing.assert_array_equal(other.blocks.attention.to_out.weight, 2 * weight)


def test_a_bare_state_dict_is_read(dit, tmp_path):
    shutil.copy(GOLDEN / "config.json", tmp_path)
    write_torch_file(tmp_path / "bare.pt", TENSORS)
    assert eqx.tree_equal(load_published_dit(tmp_path / "bare.pt"), dit)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no none\.pt in"):
        load_published_dit(tmp_path / "none.pt")
    path = tmp_path / "a.pt"
    write_torch_file(path, {"model": TENSORS})
    with pytest.raises(ValueError, match=r"the part `ema`; got the parts \['model'\]"):
        load_published_dit(path)
    with pytest.raises(FileNotFoundError, match=r"got no config\.json in"):
        load_published_dit(path, part="model")
    shutil.copy(GOLDEN / "config.json", tmp_path)
    save_file({"x_embedder.proj.bias": np.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.proj\.bias.* missing"):
        load_published_dit(tmp_path / "a.safetensors")


def test_something_else_in_a_state_dict_is_named(tmp_path):
    shutil.copy(GOLDEN / "config.json", tmp_path)
    for content, message in (
        ({"ema": {"x": 1}}, r"got something else for \['x'\]"),
        ([], "a dict of tensors; got a list"),
    ):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps(content, 2))
        with pytest.raises(ValueError, match=message):
            load_published_dit(tmp_path / "a.pt")
