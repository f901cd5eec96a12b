"""A made-up model: what is not copied is stacked, joined or turned."""

import numpy as np
import pytest

from vtp_eqx.tensor_files.name_table import in_blocks, Layout, NameTable, patch_layout


LEAVES = {
    "embed.weight": np.arange(5 * 12).reshape(5, 12),
    "embed.bias": np.arange(5),
    "scale": np.array(3),
    "blocks.gate.weight": np.arange(2 * 4 * 5).reshape(2, 4, 5),
    "blocks.up.weight": np.arange(2 * 3 * 5).reshape(2, 3, 5) + 100,
    "blocks.norm": np.arange(2 * 5).reshape(2, 5),
}
LEAVES = {path: leaf.astype(np.float32) for path, leaf in LEAVES.items()}
NAMES = {
    "conv": "embed",
    "s": "scale",
    **in_blocks(
        "layers",
        "blocks",
        {"w12": ("gate", "up"), "ln.gamma": "norm", "attn": "attention"},
    ),
}
LAYOUTS = {
    "conv.weight": patch_layout(2, 3),
    "layers.{}.ln.gamma": Layout("d", "1 d"),
}
TABLE = NameTable(NAMES, LEAVES, LAYOUTS)


def test_published_tensors_by_hand():
    tensors = TABLE.write(LEAVES)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "conv.weight": (5, 3, 2, 2),
        "conv.bias": (5,),
        "s": (),
        "layers.0.w12.weight": (7, 5),
        "layers.1.w12.weight": (7, 5),
        "layers.0.ln.gamma": (1, 5),
        "layers.1.ln.gamma": (1, 5),
    }
    assert {name: tensor.shape for name, tensor in TABLE.shapes().items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    # Pixel 1, channel 2 of output 3: ours has the channel fastest.
    assert tensors["conv.weight"][3, 2, 0, 1] == LEAVES["embed.weight"][3, 1 * 3 + 2]
    # Row 5 of the second block is row 1 of its second part.
    second = tensors["layers.1.w12.weight"]
    np.testing.assert_array_equal(second[5], LEAVES["blocks.up.weight"][1, 1])


def test_what_is_written_is_read_back():
    arrays = TABLE.read(TABLE.write(LEAVES))
    assert arrays.keys() == LEAVES.keys()
    for path, leaf in LEAVES.items():
        np.testing.assert_array_equal(arrays[path], leaf)


def test_only_names_that_are_known_to_be_unused_may_be_left_over():
    tensors = TABLE.write(LEAVES) | {"teacher.count": np.array(1)}
    assert TABLE.read(tensors, unused=(".count",)).keys() == LEAVES.keys()
    with pytest.raises(ValueError, match=r"\[teacher\.count\] too many"):
        TABLE.read(tensors)
    with pytest.raises(ValueError, match=r"\[periods\] missing"):
        TABLE.read(TABLE.write(LEAVES), constants={"periods": np.zeros(2)})


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"layers.1.w12.weight": None}, r"\[layers\.1\.w12\.weight\] missing"),
        ({"s": np.zeros(1)}, r"s \(1,\) for \(\)"),
        ({"conv.bias": np.zeros(5, int)}, "int64 for `conv.bias`"),
    ],
)
def test_tensors_that_do_not_fit_are_named(spoiled, message):
    tensors = TABLE.write(LEAVES) | spoiled
    tensors = {name: t for name, t in tensors.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        TABLE.read(tensors)


def test_more_blocks_than_tensors_are_refused_before_they_are_named():
    leaves = {"blocks.norm": np.broadcast_to(np.float32(0), (900_000, 5))}
    with pytest.raises(ValueError, match="0 tensors for 900000 blocks"):
        NameTable(NAMES, leaves, LAYOUTS).read({})
