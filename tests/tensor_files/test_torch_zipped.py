"""`golden/torch_save/checkpoint.pt` was written by `torch.save` of torch 2.13."""

import ast
import io
import os
from pathlib import Path
import pickle
import resource
import zipfile

from hypothesis import given, strategies as st
import ml_dtypes
import numpy as np
import pytest

from vtp_eqx.tensor_files import torch_program as program_module, TorchFile


PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}


CHECKPOINT = Path(__file__).parents[1] / "golden" / "torch_save" / "checkpoint.pt"
NUMBERS = np.arange(24, dtype=np.float32) / 8 - 1


def text(word):
    return b"X" + len(word).to_bytes(4, "little") + word.encode()


def numbers(*counts):
    # `LONG1` of ten bytes, for counts of any size.
    return (
        b"(" + b"".join(b"\x8a\x0a" + c.to_bytes(10, "little") for c in counts) + b"t"
    )


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


def test_the_stride_of_an_axis_of_one_does_not_matter(tmp_path):
    path = saved(tmp_path / "a.pt", tensor(shape=(1, 2), strides=(2**70, 1)))
    np.testing.assert_array_equal(read(path), [[0, 1]])


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
        (b"]}b", "AttributeError: 'list' object has no attribute"),
        (b"K\x01)R", "TypeError: 'int' object is not callable"),
        (b"}]K\x01s", "cannot be followed"),
        (b"h\x05", "cannot be followed"),
        (b"0", "got the instruction POP"),
        (b"", "cannot be followed"),
        (b"}(K\x01u", "odd number of items"),
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
        ({"size": 5}, "got 16 for 5 of float32 for `x`"),
        ({"kind": "Half"}, "got 16 for 4 of float16 for `x`"),
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


OBJECT = tensor()  # a `StoredTensor` on the stack
GLOBAL = b"ctorch._utils\n_rebuild_tensor_v2\n"
STATE = b"}" + text("offset") + b"K\x63s"  # {"offset": 99}


@pytest.mark.parametrize(
    "program",
    [
        OBJECT + STATE + b"b",
        OBJECT + b"N" + STATE + b"\x86b",  # as what its slots hold
        GLOBAL + b"}" + text("name") + text("os system") + b"sb",
        GLOBAL + b"N}" + text("name") + text("os system") + b"s\x86b",
        b"ccollections\nOrderedDict\n" + STATE + b"b",
        b"ctorch\nFloatStorage\n" + STATE + b"b",
        OBJECT + b"K\x01a",
    ],
)
def test_a_program_changes_no_object_that_it_did_not_make(program, tmp_path):
    with pytest.raises(ValueError, match=r"odd\.pt cannot be followed"):
        TorchFile(saved(tmp_path / "odd.pt", program))
    path = saved(tmp_path / "a.pt", tensor())
    np.testing.assert_array_equal(read(path), [0, 1])


def test_what_is_set_on_a_dict_is_dropped(tmp_path):
    program = b"ccollections\nOrderedDict\n)R" + text("a") + tensor() + b"s"
    hidden = b"}(" + text("items") + tensor() + text("_metadata") + b"}ub"
    with TorchFile(saved(tmp_path / "a.pt", program + hidden)) as file:
        assert [*file.tensors()] == ["a"]


@pytest.mark.parametrize(
    "program",
    [
        b"]r" + (2**32 - 1).to_bytes(4, "little"),
        b"]r" + (2**27).to_bytes(4, "little"),
        b"]q\xff",
    ],
)
def test_a_small_program_cannot_fill_the_memory_by_numbers(program, tmp_path):
    # Python's own machine takes 16 bytes for each number up to the largest.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"BINPUT of .* at byte 3 of the program"):
        TorchFile(saved(tmp_path / "odd.pt", program))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100_000  # kilobytes


def test_an_error_stays_short_however_large_what_it_tells_of_is(tmp_path):
    # Each tuple holds the one before twice: as text, 2^60 letters.
    bomb = b")" + b"".join(
        b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)
    )
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + bomb
    storage += text("cpu") + b"K\x04tQ"
    strides = tensor().split(numbers(1))[0] + bomb + b"tR"
    for program in (storage, strides):
        with pytest.raises(ValueError, match=r"got a (storage|tensor) ") as error:
            TorchFile(saved(tmp_path / "odd.pt", program))
        assert len(str(error.value)) < 2000


@given(seed=st.integers(0, 2**32 - 1))
def test_a_changed_program_is_read_or_is_an_error_that_names_it(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(CHECKPOINT) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        program = bytearray(archive.read(name)[2:-1])
    for at in rng.integers(0, len(program), rng.integers(1, 4)).tolist():
        program[at] = rng.integers(0, 256)
    path = saved(tmp_path_factory.mktemp("changed") / "odd.pt", bytes(program))
    try:
        with TorchFile(path) as file:
            assert isinstance(file.content, dict)
    except ValueError as error:
        assert "odd.pt" in str(error)  # noqa: PT017


def test_pickle_is_used_in_one_class_that_looks_no_name_up():
    uses = []
    for path in (Path(__file__).parents[2] / "vtp_eqx").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in PICKLES, path
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
                uses += [(path.name, name) for name in names if name in PICKLES]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("super", "find_class")
                if node.value.id in PICKLES:
                    uses.append((path.name, f"{node.value.id}.{node.attr}"))
    file = "torch_program.py"
    assert uses == [(file, "pickle"), (file, "pickle.Unpickler")]
    machine = program_module._Unpickler
    assert machine.find_class is not pickle.Unpickler.find_class
    assert machine.persistent_load is not getattr(
        pickle.Unpickler, "persistent_load", None
    )
    with pytest.raises(ValueError, match=r"got `os\.system`"):
        machine(io.BytesIO()).find_class("os", "system")
