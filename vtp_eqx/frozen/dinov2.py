"""DINOv2's vision transformers, frozen, for Frechet distances in their features.

Oquab et al. 2023, https://arxiv.org/abs/2304.07193; with registers, Darcet et al. 2023,
https://arxiv.org/abs/2309.16588. Positions are learned on one grid and interpolated to
others as facebookresearch/dinov2 b8931f7 does.
"""

import dataclasses
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray
import numpy as np

from vtp_eqx.config import FeedForward, IMAGENET_MEAN, IMAGENET_STD
from vtp_eqx.frozen.weights import PublishedFile
from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.models.encoder import Features
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm
from vtp_eqx.nn.patches import patch_grid, patchify
from vtp_eqx.nn.transformer import Transformer
from vtp_eqx.tensor_files.name_table import (
    in_blocks,
    Layout,
    Names,
    NameTable,
    patch_layout,
    Tensors,
    TIMM_BLOCK,
    TIMM_MLP,
    TIMM_SWIGLU,
)


DISTANCE_SIDE = 224  # Stein et al. 2023
_OUTSIDE: Names = {
    "patch_embed.proj": "patch_embed",
    "cls_token": "cls_token",
    "register_tokens": "registers",
    "pos_embed": ("cls_position", "positions"),
    "norm": "norm",
}
_LAYOUTS = {
    "cls_token": Layout("d", "1 1 d"),
    "pos_embed": Layout("n d", "1 n d"),
    "register_tokens": Layout("n d", "1 n d"),
}
MEAN, STD = np.asarray(IMAGENET_MEAN, np.float32), np.asarray(IMAGENET_STD, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DinoV2Config:
    """Shape of one of DINOv2's transformers; defaults are those of all published."""

    width: int
    depth: int
    num_heads: int
    num_registers: int = 0
    feed_forward: FeedForward = "mlp"
    patch_size: int = 14
    grid_size: int = 37  # side of the grid of its positions: 518 pixels


@dataclasses.dataclass(frozen=True)
class PublishedDinoV2:
    """A published transformer: its shape and its file."""

    config: DinoV2Config
    file: PublishedFile


class DinoV2(eqx.Module):
    """A vision transformer with a summary token: `network(image) -> Features`.

    `origin` says whose weights it has.
    """

    patch_embed: Linear
    cls_token: Float[Array, " width"]  # its position is added to it
    registers: Float[Array, "num_registers width"]
    positions: Float[Array, "rows columns width"]
    stack: Transformer
    norm: LayerNorm
    config: DinoV2Config = eqx.field(static=True)
    origin: str = eqx.field(static=True)

    def __init__(
        self, config: DinoV2Config, origin: str = "unchecked", *, key: PRNGKeyArray
    ):
        """Weights are drawn, to be replaced by published ones."""
        embed_key, stack_key = jr.split(key)
        width, grid = config.width, config.grid_size
        self.patch_embed = Linear(3 * config.patch_size**2, width, key=embed_key)
        self.cls_token = jnp.zeros(width, jnp.float32)
        self.registers = jnp.zeros((config.num_registers, width), jnp.float32)
        self.positions = jnp.zeros((grid, grid, width), jnp.float32)
        self.stack = Transformer(
            width,
            config.depth,
            config.num_heads,
            norm="layernorm",
            feed_forward=config.feed_forward,
            layer_scale=1.0,
            key=stack_key,
        )
        self.norm = LayerNorm(width)
        self.config = config
        self.origin = origin

    def __call__(self, image: Float[Array, "height width 3"]) -> Features:
        """The features of one image of values in [0, 1] that the patch divides."""
        # A number must not depend on the machine: a GPU would take fewer bits.
        with jax.default_matmul_precision("highest"):
            tokens = self.norm(self.stack(self._embed(image)))
        return self._features(tokens)

    def intermediate(
        self, image: Float[Array, "height width 3"], last: int
    ) -> list[Features]:
        """The features after each of the `last` blocks, first to last, normed."""
        traced = self.stack.trace(self._embed(image))[-last:]
        return [self._features(self.norm(tokens)) for tokens in traced]

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        return self.config.depth

    @property
    def width(self) -> int:
        """The width of its features."""
        return self.config.width

    @property
    def patch_size(self) -> int:
        """The side of a patch in pixels."""
        return self.config.patch_size

    def distance_features(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, " features"]:
        """The summary of an image of any size, resized to 224 x 224.

        What FD-DINOv2 compares, taken with ViT-L/14 without registers: Stein et al.
        2023, https://arxiv.org/abs/2306.04675. Bicubic, filtered where it shrinks.
        """
        shape = (DISTANCE_SIDE, DISTANCE_SIDE, 3)
        return self(jax.image.resize(image, shape, "cubic", antialias=True)).cls

    def _embed(
        self, image: Float[Array, "height width 3"]
    ) -> Float[Array, "seq features"]:
        grid = patch_grid(image.shape[0], image.shape[1], self.config.patch_size)
        pixels = (image - MEAN) / STD
        patches = self.patch_embed(patchify(pixels, self.config.patch_size))
        patches += self._positions(*grid).reshape(patches.shape).astype(patches.dtype)
        return jnp.concatenate([self.cls_token[None], self.registers, patches])

    def _features(self, tokens: Float[Array, "seq features"]) -> Features:
        return Features(tokens[0], tokens[1 + self.config.num_registers :])

    def _positions(self, rows: int, columns: int) -> Float[Array, "rows columns width"]:
        size = self.config.grid_size
        if rows == columns == size:
            return self.positions
        if self.config.num_registers:
            shape = (rows, columns, self.config.width)
            return jax.image.resize(self.positions, shape, "cubic", antialias=True)
        down, across = _cubic_table(size, rows), _cubic_table(size, columns)
        return jnp.einsum("rh,hwd,cw->rcd", down, self.positions, across)


def dinov2_from_published(
    tensors: Tensors, config: DinoV2Config, origin: str = "unchecked"
) -> DinoV2:
    """The network of a published state dict.

    The token that stands for masked patches is not read. A `ValueError` names tensors
    that are missing, unknown or of another shape.
    """
    skeleton = eqx.filter_eval_shape(DinoV2, config, origin, key=jr.key(0))
    width, grid = config.width, config.grid_size
    leaves = named_arrays(skeleton) | {
        "cls_position": jax.ShapeDtypeStruct((1, width), np.float32),
        "positions": jax.ShapeDtypeStruct((grid**2, width), np.float32),
    }
    kind = TIMM_MLP if config.feed_forward == "mlp" else TIMM_SWIGLU
    names = {**_OUTSIDE, **in_blocks("blocks", "stack.blocks", {**TIMM_BLOCK, **kind})}
    if not config.num_registers:
        del names["register_tokens"]
    patches = {"patch_embed.proj.weight": patch_layout(config.patch_size, 3)}
    table = NameTable(names, leaves, _LAYOUTS | patches)
    arrays = table.read(tensors, unused=("mask_token",))
    arrays.setdefault("registers", np.zeros((0, width), np.float32))
    arrays["cls_token"] = arrays["cls_token"] + arrays["cls_position"][0]
    arrays["positions"] = arrays["positions"].reshape(grid, grid, width)
    return with_arrays(skeleton, arrays)


def load_dinov2(
    path: str | os.PathLike[str], published: PublishedDinoV2, *, check: bool = True
) -> DinoV2:
    """One of `BY_FILE` from its file.

    A missing file, or with `check` one of another hash than the published, is an error
    (`PublishedFile.read`).
    """
    tensors, origin = published.file.read(path, check=check)
    return dinov2_from_published(tensors, published.config, origin)


def _cubic_table(size: int, count: int) -> np.ndarray:
    """The weights `[count, size]` of the interpolation of models without registers.

    Bicubic with a = -0.75, never filtered, and with steps a little too small: the
    published code adds 0.1 to the count when it computes them.
    """
    place = (np.arange(count) + 0.5) * size / (count + 0.1) - 0.5
    before = np.floor(place).astype(int)
    table = np.zeros((count, size), np.float32)
    for tap in (-1, 0, 1, 2):
        column = np.clip(before + tap, 0, size - 1)
        np.add.at(table, (np.arange(count), column), _cubic(place - before - tap))
    return table


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel."""
    x, a = np.abs(x), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, far)


def _published(
    size: str, shape: tuple[int, int, int], *digests: str
) -> dict[str, PublishedDinoV2]:
    """A transformer without and with registers; `shape` is width, depth and heads."""
    width, depth, num_heads = shape
    name, found = f"dinov2_vit{size}14", {}
    for digest, num_registers in zip(digests, (0, 4), strict=True):
        config = DinoV2Config(
            width=width,
            depth=depth,
            num_heads=num_heads,
            num_registers=num_registers,
            feed_forward="swiglu" if size == "g" else "mlp",
        )
        file = f"{name}{'_reg4' if num_registers else ''}_pretrain.pth"
        address = f"https://dl.fbaipublicfiles.com/dinov2/{name}/{file}"
        published = PublishedFile(name=file, address=address, digest=digest)
        found[file] = PublishedDinoV2(config, published)
    return found


# The published transformers, by the names of their files.
BY_FILE = {
    **_published(
        "s", (384, 12, 6),
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
    ),
    **_published(
        "b", (768, 12, 12),
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
    ),
    **_published(
        "l", (1024, 24, 16),
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
    ),
    **_published(
        "g", (1536, 40, 24),
        "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
        "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
    ),
}  # fmt: skip
