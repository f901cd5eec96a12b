import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vtp_eqx.tensor_files import (
    as_float32,
    check_arrays,
    read_notes,
    read_object,
    read_tensors,
    write_model,
)


TENSORS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "scalar": np.float32(0.5)[None][0:1].reshape(()),
    "none": np.zeros((0, 4), np.float32),
    "count": np.array([7], np.int64),
}
INDEX = "model.safetensors.index.json"
ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(path, header, data=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def sharded(folder, files, weight_map):
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder / INDEX


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_what_safetensors_writes_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", {"note": "text"})
    same(read_tensors(tmp_path / "a.safetensors"), TENSORS)
    assert read_notes(tmp_path / "a.safetensors") == {"note": "text"}


def test_a_written_model_is_read(tmp_path):
    turned = {"turned": TENSORS["float"].T}
    write_model(tmp_path, "model.safetensors", turned, {"depth": 3})
    same(read_tensors(tmp_path / "model.safetensors"), turned)
    assert read_object(tmp_path / "config.json") == {"depth": 3}
    assert len([*tmp_path.iterdir()]) == 2


def test_half_precision_becomes_float32_exactly():
    everything = np.arange(2**16, dtype=np.uint16)
    # Exponents that are all ones stand for infinity and for no number.
    for kind, exponent in ((np.float16, 0x7C00), (ml_dtypes.bfloat16, 0x7F80)):
        numbers = everything[everything & exponent != exponent].view(kind)
        wide = as_float32(numbers, "x")
        assert wide.dtype == np.float32
        np.testing.assert_array_equal(wide.astype(kind), numbers)


@pytest.mark.parametrize("kind", [np.int64, np.bool_, np.float64])
def test_other_types_are_no_weights(kind):
    with pytest.raises(ValueError, match=f"got {np.dtype(kind)} for `x`"):
        as_float32(np.zeros(2, kind), "x")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_named(share, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1, 2]", "invalid type: sequence"),
        (b"{not json}", "line 1 column 2"),
        (b"\xff\xfe", "invalid utf-8 sequence of 1 bytes from index 0"),
        (b"[" * 100_000, "invalid type: sequence"),
        (b'{"x": {"y": ' + b"[" * 100_000, "recursion limit exceeded"),
        (b'{"x": 1, "x": 2}', "invalid type: integer `1`"),
        (b'{"x": {"dtype": "F32", "dtype": "F16"}}', "duplicate field `dtype`"),
        ({"x": 1}, "invalid type: integer `1`, .* line 1 column 8"),
        ({"x": {**ONE, "dtype": "F8_E4M3"}}, "invalid shape, data type, or offset"),
        ({"x": {**ONE, "dtype": "F32X"}}, "unknown variant `F32X`"),
        ({"x": {**ONE, "dtype": ["F32"]}}, "invalid type: sequence, expected string"),
        ({"x": {**ONE, "shape": [-2]}}, "invalid value: integer `-2`"),
        ({"x": {**ONE, "shape": [2.0]}}, "invalid type: floating point `2.0`"),
        ({"x": {**ONE, "shape": [True, 2]}}, "invalid type: boolean `true`"),
        ({"x": {**ONE, "data_offsets": [0, 8, 9]}}, "invalid length 3, expected 2"),
        ({"x": {**ONE, "data_offsets": [8, 0]}}, "invalid offset for tensor `x`"),
        ({"x": {**ONE, "data_offsets": [0, 4]}}, "invalid shape, data type, or offset"),
        ({"x": {**ONE, "shape": [2**62, 2**62]}}, "overflow computing buffer size"),
        ({"x": {**ONE, "data_offsets": [8, 16]}}, "invalid offset for tensor `x`"),
        ({"x": ONE, "y": ONE}, "invalid offset for tensor `[xy]`"),
        (
            {"x": ONE, "y": {**ONE, "data_offsets": [4, 12]}},
            "invalid offset for tensor `y`",
        ),
        (
            {"x": ONE, "y": {**ONE, "data_offsets": [8, 16]}},
            "139 bytes.* file not fully covered",
        ),
        ({}, "18 bytes.* file not fully covered"),
        ({"x": ONE, "__metadata__": {"a": 1}}, "integer `1`, expected a string"),
    ],
)
def test_a_hostile_header_is_refused(header, message, tmp_path):
    path = raw(tmp_path / "a.safetensors", header)
    for read in (read_tensors, read_notes):
        with pytest.raises(
            ValueError, match=rf"whole; got .*a\.safetensors of .*{message}.*: copy it"
        ):
            read(path)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f'{{"x": {json.dumps(ONE)}, "x": {json.dumps(ONE)}}}', "x"),
        (f'{{"x": {json.dumps(ONE)}, "__metadata__": {{"a": "1", "a": "2"}}}}', "a"),
        (f'{{"x": {{"y": 1, "y": 2, {json.dumps(ONE)[1:]}}}', "y"),
    ],
)
def test_a_header_with_a_name_twice_is_refused(header, name, tmp_path):
    path = raw(tmp_path / "a.safetensors", header.encode())
    for read in (read_tensors, read_notes):
        with pytest.raises(ValueError, match=rf"name '{name}' twice .*a\.safetensors"):
            read(path)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("F8_E4M3", [8]), ("F4", [16]), ("F8_E8M0", [8])]
)
def test_a_type_that_numpy_does_not_have_is_named(dtype, shape, tmp_path):
    header = {"x": {**ONE, "dtype": dtype, "shape": shape}}
    with pytest.raises(ValueError, match=rf"got {dtype} for `x` in .*a\.safetensors"):
        read_tensors(raw(tmp_path / "a.safetensors", header))


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 1000])
def test_a_header_longer_than_its_file_is_refused(length, tmp_path):
    path = raw(tmp_path / "a.safetensors", {"x": ONE}, length=length)
    with pytest.raises(ValueError, match=r"a\.safetensors of 77 bytes .* header"):
        read_tensors(path)


def test_tensors_can_be_written_to_and_do_not_depend_on_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    tensors = read_tensors(path)
    path.write_bytes(b"")
    same(tensors, TENSORS)
    tensors["float"][0, 0] = 7
    assert all(tensor.flags.aligned for tensor in tensors.values())


def test_shards_are_one_model(tmp_path):
    names = sorted(TENSORS)
    files = {
        f"model-{i}-of-2.safetensors": {n: TENSORS[n] for n in half}
        for i, half in enumerate((names[:3], names[3:]))
    }
    where = {name: file for file, tensors in files.items() for name in tensors}
    same(read_tensors(sharded(tmp_path, files, where)), TENSORS)


@pytest.mark.parametrize(
    "file",
    ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "a.bin", "..", ""],
)
def test_an_index_stays_in_its_folder(file, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    save_file({"x": TENSORS["float"]}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="names safetensors files beside it; got"):
        read_tensors(sharded(folder, {}, {"x": file}))


@pytest.mark.parametrize(
    ("weight_map", "error", "message"),
    [
        ({"x": "b.safetensors"}, FileNotFoundError, r"got no b\.safetensors in"),
        ({"y": "a.safetensors"}, ValueError, r"got \['x', 'y'\] in only one of"),
        ({}, None, ""),
        ({"x": 3}, ValueError, "`weight_map`"),
        ([], ValueError, "`weight_map`"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(weight_map, error, message, tmp_path):
    index = sharded(tmp_path, {"a.safetensors": {"x": TENSORS["float"]}}, weight_map)
    if error is None:
        assert read_tensors(index) == {}
        return
    with pytest.raises(error, match=message):
        read_tensors(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"a": ', "Expecting value"),
        (b"null", "got a NoneType"),
        (b'"text"', "got a str"),
        (b'{"a": 1, "a": 1}', "the name 'a' twice"),
    ],
)
def test_a_broken_config_is_named(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}.*config\.json"):
        read_object(path)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_tensors, read_object, read_notes):
        with pytest.raises(FileNotFoundError, match=r"got no x\.safetensors in"):
            read(Path(tmp_path) / "x.safetensors")


def test_names_and_shapes_are_held_to_what_is_expected():
    one, two = np.zeros(1), np.zeros(2)
    check_arrays({"a": one, "b": two}, {"b": two, "a": one})
    with pytest.raises(ValueError, match=r"got \[c\] too many and \[b\] missing"):
        check_arrays({"a": one, "c": two}, {"a": one, "b": two})
    with pytest.raises(ValueError, match=r"got \[a \(2,\) for \(1,\)\]"):
        check_arrays({"a": two}, {"a": one})


def test_a_long_list_of_names_is_cut_short():
    many = {f"tensor{i}": np.zeros(1) for i in range(9)}
    with pytest.raises(ValueError, match="tensor4, and 4 more"):
        check_arrays({}, many)
