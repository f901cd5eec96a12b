"""Checkpoints as LightningDiT's training writes them, made here without torch."""

import json
from pathlib import Path
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


GOLDEN = Path(__file__).parents[2] / "golden" / "lightningdit_vtp_flags"
TENSORS = load_file(GOLDEN / "model.safetensors")


def load_published_dit(where, part="ema"):
    return dit_from_published(*read_published(where, part))


@pytest.fixture(scope="module")
def dit():
    return load_published_dit(GOLDEN)


def text(word):
    return b"X" + len(word.encode()).to_bytes(4, "little") + word.encode()


def whole(number):
    return b"J" + number.to_bytes(4, "little")


def state_dict(records, tensors):
    """The instructions that build a state dict; its bytes go to `records`."""
    program = [b"}("]
    for name, tensor in tensors.items():
        record = str(len(records))
        records[record] = tensor.tobytes()
        strides = [stride // tensor.itemsize for stride in tensor.strides]
        program += [
            text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(", text("storage"), b"ctorch\nFloatStorage\n", text(record), text("cpu"),
            whole(tensor.size), b"tQ", whole(0),
            b"(", *map(whole, tensor.shape), b"t", b"(", *map(whole, strides), b"t",
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    return b"".join(program) + b"u"


def checkpoint(path, **parts):
    """A file of `torch.save` with a state dict for each part."""
    records = {}
    program = b"}("
    for part, tensors in parts.items():
        program += text(part) + state_dict(records, tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + program + b"u.")
        for record, content in records.items():
            archive.writestr(f"x/data/{record}", content)
    return path


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
    path = checkpoint(tmp_path / "0100000.pt", ema=TENSORS, model=trained)
    assert eqx.tree_equal(load_published_dit(path), dit)
    other = load_published_dit(path, part="model")
    weight = dit.blocks.attention.to_out.weight
    np.testing.assert_array_equal(other.blocks.attention.to_out.weight, 2 * weight)


def test_a_bare_state_dict_is_read(dit, tmp_path):
    shutil.copy(GOLDEN / "config.json", tmp_path)
    records = {}
    program = state_dict(records, TENSORS)
    with zipfile.ZipFile(tmp_path / "bare.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + program + b".")
        for record, content in records.items():
            archive.writestr(f"x/data/{record}", content)
    assert eqx.tree_equal(load_published_dit(tmp_path / "bare.pt"), dit)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no none\.pt in"):
        load_published_dit(tmp_path / "none.pt")
    path = checkpoint(tmp_path / "a.pt", model=TENSORS)
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
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        program = b"}" + text("ema") + b"}" + text("x") + whole(1) + b"ss."
        archive.writestr("x/data.pkl", b"\x80\x02" + program)
    with pytest.raises(ValueError, match=r"got something else for \['x'\]"):
        load_published_dit(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02].")
    with pytest.raises(ValueError, match="a dict of tensors; got a list"):
        load_published_dit(tmp_path / "a.pt")
