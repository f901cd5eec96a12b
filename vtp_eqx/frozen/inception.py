"""Inception-v3 as the Frechet inception distance defines it.

The weights are those of the graph of 2015-12-05 that Heusel et al. 2017,
https://arxiv.org/abs/1706.08500, measured with, in the state dict of
mseitzer/pytorch-fid. The graph is not the published architecture: its average pools
leave the padding out of their means, and its last block takes maxima instead.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from vtp_eqx.frozen.weights import PublishedFile
from vtp_eqx.nn.convolution import Convolution, max_pool, mean_pool, Padding
from vtp_eqx.tensor_files.name_table import CONVOLUTION, NameTable, Tensors


INCEPTION = PublishedFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    address="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    digest="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)

SIDE = 299
NUM_CLASSES = 1008
NORM, NORM_EPS = ("weight", "bias", "running_mean", "running_var"), 1e-3
SPATIAL_BLOCK, SPATIAL_WIDTH = "Mixed_6d", 7  # channels of its first branch

Preprocessing = Literal["pytorch-fid", "tensorflow"]
Map = Float[Array, "height width channels"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A published convolution, its batch norm and its activation, by their name."""

    name: str
    width: int
    rows: int = 1
    columns: int = 1
    stride: int = 1
    padding: Padding = "SAME"


Pool = Callable[[Array], Array]
halve: Pool = functools.partial(max_pool, size=3, stride=2)  # between two grids
largest: Pool = functools.partial(max_pool, size=3, stride=1, padding="SAME")
mean: Pool = functools.partial(mean_pool, size=3)

Fork = tuple[Layer, ...]  # of one map; their results are joined
Chain = tuple[Layer | Fork | Pool, ...]
Block = tuple[Chain, ...]


def _grid_35(pool_width: int) -> Block:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5, 5)),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, 3, 3),
            Layer("branch3x3dbl_3", 96, 3, 3),
        ),
        (mean, Layer("branch_pool", pool_width)),
    )


def _grid_17(width: int) -> Block:
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", width),
            Layer("branch7x7_2", width, 1, 7),
            Layer("branch7x7_3", 192, 7, 1),
        ),
        (
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, 7, 1),
            Layer("branch7x7dbl_3", width, 1, 7),
            Layer("branch7x7dbl_4", width, 7, 1),
            Layer("branch7x7dbl_5", 192, 1, 7),
        ),
        (mean, Layer("branch_pool", 192)),
    )


def _grid_8(pool: Pool) -> Block:
    def fork(name: str) -> Fork:
        return Layer(f"{name}a", 384, 1, 3), Layer(f"{name}b", 384, 3, 1)

    return (
        (Layer("branch1x1", 320),),
        (Layer("branch3x3_1", 384), fork("branch3x3_2")),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, 3, 3),
            fork("branch3x3dbl_3"),
        ),
        (pool, Layer("branch_pool", 192)),
    )


STEM: Chain = (
    Layer("Conv2d_1a_3x3", 32, 3, 3, 2, "VALID"),
    Layer("Conv2d_2a_3x3", 32, 3, 3, 1, "VALID"),
    Layer("Conv2d_2b_3x3", 64, 3, 3),
    halve,
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, 3, 3, 1, "VALID"),
    halve,
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _grid_35(32),
    "Mixed_5c": _grid_35(64),
    "Mixed_5d": _grid_35(64),
    "Mixed_6a": (
        (Layer("branch3x3", 384, 3, 3, 2, "VALID"),),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, 3, 3),
            Layer("branch3x3dbl_3", 96, 3, 3, 2, "VALID"),
        ),
        (halve,),
    ),
    "Mixed_6b": _grid_17(128),
    "Mixed_6c": _grid_17(160),
    "Mixed_6d": _grid_17(160),
    "Mixed_6e": _grid_17(192),
    "Mixed_7a": (
        (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, 3, 3, 2, "VALID")),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, 1, 7),
            Layer("branch7x7x3_3", 192, 7, 1),
            Layer("branch7x7x3_4", 192, 3, 3, 2, "VALID"),
        ),
        (halve,),
    ),
    "Mixed_7b": _grid_8(mean),
    "Mixed_7c": _grid_8(largest),
}


class InceptionReading(eqx.Module):
    """What Inception sees in one image.

    `features` are the means over places that the Frechet inception distance compares.
    `spatial` is a grid of 17 x 17 places and 7 channels in one row, for sFID: Nash et
    al. 2021, https://arxiv.org/abs/2103.03841, as openai/guided-diffusion measures it.
    `logits` are those of the Inception score, without the bias, which it leaves out.
    """

    features: Float[Array, " features"]
    spatial: Float[Array, " spatial"]
    logits: Float[Array, " classes"]


class Inception(eqx.Module):
    """Reads one image of any size: `inception(image) -> InceptionReading`.

    Its layers have published names, with the batch norms folded into them. `origin`
    says whose weights it has.
    """

    layers: dict[str, Convolution]
    to_logits: Float[Array, "classes features"]
    origin: str = eqx.field(static=True)
    preprocessing: Preprocessing = eqx.field(static=True, default="pytorch-fid")

    def __call__(self, image: Float[Array, "height width 3"]) -> InceptionReading:
        """Reads one image of values in [0, 1]."""
        # A number must not depend on the machine: a GPU would take fewer bits.
        with jax.default_matmul_precision("highest"):
            x = self._through(STEM, preprocessed(image, self.preprocessing), "")
            first: dict[str, Array] = {}
            for name, block in BLOCKS.items():
                parts = [self._through(chain, x, f"{name}.") for chain in block]
                first[name] = parts[0]
                x = jnp.concatenate(parts, axis=-1)
            features = jnp.mean(x, axis=(0, 1))
            logits = self.to_logits @ features
            spatial = first[SPATIAL_BLOCK][..., :SPATIAL_WIDTH].reshape(-1)
        return InceptionReading(features, spatial, logits)

    def _through(
        self, chain: Chain, x: Map, prefix: str
    ) -> Float[Array, "down across out"]:
        for part in chain:
            if isinstance(part, Layer):
                x = self._layer(x, prefix + part.name)
            elif isinstance(part, tuple):
                joined = [self._layer(x, prefix + one.name) for one in part]
                x = jnp.concatenate(joined, axis=-1)
            else:
                x = part(x)
        return x

    def _layer(self, x: Map, name: str) -> Float[Array, "down across out"]:
        return jax.nn.relu(self.layers[name](x))


def preprocessed(image: Map, preprocessing: Preprocessing) -> Float[Array, "299 299 3"]:
    """`image` of values in [0, 1], resized without a filter, in about [-1, 1].

    "pytorch-fid" aligns the centers of pixels and maps white to 1. "tensorflow" is what
    the original graph does, which openai/guided-diffusion measures with: pixel 0 of the
    result lies on pixel 0 of the image, and white is 127 / 128.
    """
    if preprocessing == "pytorch-fid":
        resized = jax.image.resize(image, (SIDE, SIDE, 3), "linear", antialias=False)
        return 2 * resized - 1
    down, across = (_from_corner(side) for side in image.shape[:2])
    resized = jnp.einsum("rh,hwc,sw->rsc", down, image, across, precision="highest")
    return (255 * resized - 128) / 128


def inception_from_published(
    tensors: Tensors,
    origin: str = "unchecked",
    preprocessing: Preprocessing = "pytorch-fid",
) -> Inception:
    """The network of a state dict of pytorch-fid.

    A `ValueError` names tensors that are missing, unknown or of another shape.
    """
    unused = ("fc.bias", ".bn.num_batches_tracked")
    arrays = name_table().read(tensors, unused=unused)
    layers = {
        name: _folded(arrays, name, layer) for name, (layer, _) in _layers().items()
    }
    return Inception(layers, jnp.asarray(arrays["to_logits"]), origin, preprocessing)


def name_table() -> NameTable:
    """The names of pytorch-fid for convolutions and the norms to fold into them."""
    names = {"fc.weight": "to_logits"}
    shapes: dict[str, tuple[int, ...]] = {"to_logits": (NUM_CLASSES, 2048)}
    layouts = {}
    for name, (layer, in_width) in _layers().items():
        kernel = (layer.rows, layer.columns, in_width, layer.width)
        names[f"{name}.conv.weight"] = f"{name}.weight"
        shapes[f"{name}.weight"] = kernel
        layouts[f"{name}.conv.weight"] = CONVOLUTION
        for part in NORM:
            names[f"{name}.bn.{part}"] = f"{name}.norm.{part}"
            shapes[f"{name}.norm.{part}"] = (layer.width,)
    leaves = {
        path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()
    }
    return NameTable(names, leaves, layouts)


def load_inception(
    path: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing = "pytorch-fid",
    check: bool = True,
) -> Inception:
    """Inception from pytorch-fid's file.

    A missing file, or with `check` one of another hash than the published, is an error
    (`PublishedFile.read`).
    """
    tensors, origin = INCEPTION.read(path, check=check)
    return inception_from_published(tensors, origin, preprocessing)


def _layers() -> dict[str, tuple[Layer, int]]:
    """Every layer by its published name, and how many channels it reads."""
    found: dict[str, tuple[Layer, int]] = {}

    def walk(chain: Chain, width: int, prefix: str) -> int:
        for part in chain:
            if isinstance(part, Layer):
                found[prefix + part.name] = part, width
                width = part.width
            elif isinstance(part, tuple):
                found.update({prefix + one.name: (one, width) for one in part})
                width = sum(one.width for one in part)
        return width

    width = walk(STEM, 3, "")
    for name, block in BLOCKS.items():
        width = sum(walk(chain, width, f"{name}.") for chain in block)
    return found


def _folded(arrays: Tensors, name: str, layer: Layer) -> Convolution:
    """The convolution that does what a published one and its batch norm do."""
    norm = {part: arrays[f"{name}.norm.{part}"].astype(np.float64) for part in NORM}
    scale = norm["weight"] / np.sqrt(norm["running_var"] + NORM_EPS)
    weight = arrays[f"{name}.weight"] * scale
    bias = norm["bias"] - norm["running_mean"] * scale
    return Convolution(
        jnp.asarray(weight, jnp.float32),
        jnp.asarray(bias, jnp.float32),
        layer.stride,
        layer.padding,
    )


def _from_corner(size: int) -> np.ndarray:
    """The weights `[299, size]` of TensorFlow's first bilinear resize."""
    place = np.arange(SIDE, dtype=np.float32) * np.float32(size / SIDE)
    before = np.floor(place).astype(int)
    share = place - before
    table = np.zeros((SIDE, size), np.float32)
    np.add.at(table, (np.arange(SIDE), before), 1 - share)
    np.add.at(table, (np.arange(SIDE), np.minimum(before + 1, size - 1)), share)
    return table
