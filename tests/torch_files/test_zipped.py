"""`golden/torch_save/checkpoint.pt` was written by `torch.save` of torch 2.13."""

import os
from pathlib import Path
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vtp_eqx.torch_files import TorchFile


CHECKPOINT = Path(__file__).parents[1] / "golden" / "torch_save" / "checkpoint.pt"
NUMBERS = np.arange(24, dtype=np.float32) / 8 - 1


def text(word):
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def numbers(*counts):
    return b"(" + b"".join(b"J" + c.to_bytes(4, "little") for c in counts) + b"t"


def tensor(shape=(2,), strides=(1,), offset=0, size=4, record="0", kind="Float"):
    """The program of one tensor, instruction by instruction."""
    storage = b"".join(
        [b"(", text("storage"), f"ctorch\n{kind}Storage\n".encode(), text(record),
         text("cpu"), b"J", size.to_bytes(4, "little"), b"tQ"]
    )  # fmt: skip
    return b"".join(
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", storage,
         b"J", offset.to_bytes(4, "little"), numbers(*shape), numbers(*strides),
         b"\x89ccollections\nOrderedDict\n)RtR"]
    )  # fmt: skip


def saved(path, program, compression=zipfile.ZIP_STORED, order=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        archive.writestr("archive/byteorder", order)
        archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    return path


def read(path):
    with TorchFile(path) as file:
        return file.read(file.content, "x")


def test_what_torch_saved_is_read():
    with TorchFile(CHECKPOINT) as file:
        ema = {name: file.read(t, name) for name, t in file.content["ema"].items()}
        weight = file.read(file.content["model"]["lin.weight"], "weight")
        again = file.read(file.content["parameter"], "parameter")
        settings, optimizer = file.content["config"], file.content["opt"]
    np.testing.assert_array_equal(ema["whole"], NUMBERS.reshape(4, 6))
    np.testing.assert_array_equal(ema["turned"], NUMBERS.reshape(4, 6).T)
    np.testing.assert_array_equal(ema["part"], NUMBERS[5:11].reshape(2, 3))
    np.testing.assert_array_equal(ema["half"], NUMBERS.astype(np.float16))
    np.testing.assert_array_equal(ema["brain"], NUMBERS.astype(ml_dtypes.bfloat16))
    assert ema["half"].dtype == np.float16
    assert ema["brain"].dtype == ml_dtypes.bfloat16
    assert (ema["scalar"], ema["count"]) == (0.5, 7)
    assert ema["none"].shape == (0, 3)
    np.testing.assert_array_equal(weight, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(again, weight)
    assert settings == {
        "lr": 2e-4, "names": ["a", None, True], "steps": 10**12, "minus": -3,
    }  # fmt: skip
    assert optimizer["param_groups"][0]["lr"] == 2e-4


def test_a_state_dict_has_a_tensor_for_each_name(tmp_path):
    path = saved(tmp_path / "a.pt", b"}" + text("weight") + tensor() + b"s")
    with TorchFile(path) as file:
        assert file.read(file.tensors()["weight"], "weight").tolist() == [0, 1]
    for program in (tensor(), b"}" + text("epoch") + b"K\x05s"):
        path = saved(tmp_path / "b.pt", program)
        with TorchFile(path) as file, pytest.raises(ValueError, match="state dict"):
            file.tensors()


def test_a_program_written_by_hand_is_read(tmp_path):
    path = saved(tmp_path / "a.pt", tensor(offset=1, strides=(2,)))
    np.testing.assert_array_equal(read(path), [1, 3])


@pytest.mark.parametrize("function", [os.system, eval, os.remove, pickle.loads])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_named_and_not_run(function, protocol, tmp_path):
    witness = tmp_path / "witness"
    witness.touch()
    arguments = {
        os.system: f"rm {witness}",
        eval: f"__import__('os').remove({str(witness)!r})",
        os.remove: str(witness),
        pickle.loads: pickle.dumps(0),
    }

    class Hostile:
        def __reduce__(self):
            return function, (arguments[function],)

    program = pickle.dumps({"ema": Hostile()}, protocol)[2:-1]
    path = saved(tmp_path / "hostile.pt", program)
    with pytest.raises(
        ValueError, match=rf"{function.__name__}.*nothing of it was run"
    ):
        TorchFile(path)
    assert witness.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n" + text("true") + b"\x85R", r"got `os\.system`, at byte 2"),
        (b"(" + text("true") + b"ios\nsystem\n", "got the instruction INST"),
        (b"ccollections\nOrderedDict\n)\x81", "got the instruction NEWOBJ"),
        (b"ctorch\nFloatStorage\n)R", r"got a call of `torch\.FloatStorage`"),
        (b"\x82\x01", "got the instruction EXT1"),
        (b"Pname\n", "got the instruction PERSID"),
        (b"]}b", "got a list out of place"),
        (b"K\x01)R", "got a int out of place"),
        (b"}]K\x01s", "cannot be followed"),
        (b"h\x05", "cannot be followed"),
        (b"0", "got the instruction POP"),
        (b"", "cannot be followed"),
        (b"}(K\x01u", "zip"),
        (b"(.", "of the program"),
        (b"X\xff\xff\xff\x7fshort", "at byte"),
        (tensor(shape=(2,), strides=(1, 1)), r"shape \(2,\), strides \(1, 1\)"),
        (tensor(kind="Complex"), r"got `torch\.ComplexStorage`"),
    ],
)
def test_another_program_is_refused(program, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TorchFile(saved(tmp_path / "odd.pt", program)).read(None, "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (5,)}, "lies within its storage; .* for `x` in"),
        ({"offset": 3}, "lies within its storage"),
        ({"shape": (2, 2), "strides": (3, 1)}, "lies within its storage"),
        ({"shape": (1000, 1000), "strides": (0, 0)}, "lies within its storage"),
        ({"size": 5}, "got 16 for 5 of float32 behind `x`"),
        ({"kind": "Half"}, "got 16 for 4 of float16 behind `x`"),
        ({"record": "1"}, "the record archive/data/1"),
        ({"record": "../data.pkl"}, r"the record archive/data/\.\./data\.pkl"),
    ],
)
def test_a_tensor_outside_its_bytes_is_named(arguments, message, tmp_path):
    path = saved(tmp_path / "odd.pt", tensor(**arguments))
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share, tmp_path):
    content = CHECKPOINT.read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"whole zip; got .*short\.pt"):
        TorchFile(path)


def test_a_damaged_byte_is_found(tmp_path):
    content = bytearray(saved(tmp_path / "a.pt", tensor()).read_bytes())
    place = content.index(np.arange(4, dtype=np.float32).tobytes())
    content[place + 5] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"Bad CRC-32.* record archive/data/0"):
        read(tmp_path / "a.pt")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(pickle.dumps({"old": "format"}))
    with pytest.raises(ValueError, match=r"older than torch 1\.6"):
        TorchFile(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no model")
    with pytest.raises(ValueError, match=r"has one data\.pkl; got 0"):
        TorchFile(path)
    saved(path, tensor(), order=b"big")
    with pytest.raises(ValueError, match="stored little-endian; got b'big'"):
        TorchFile(path)
    saved(path, tensor(), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed"):
        TorchFile(path)


def test_no_pickle_is_loaded_by_the_library():
    for path in (Path(__file__).parents[2] / "vtp_eqx").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) c?pickle\b", path.read_text(), re.M)
