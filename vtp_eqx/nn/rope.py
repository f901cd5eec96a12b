"""Rotary positions on a grid of patches, in float32 or in the published bfloat16.

A head of width d is rotated in d/2 planes: the first half of the planes turns with the
row, the second half with the column. Which two numbers of a head span a plane is the
table's `pairing`: "halves" pairs j with j + d/2 (the tokenizer), "neighbors" pairs 2j
with 2j + 1 (LightningDiT).
"""

from typing import Any, Literal

import equinox as eqx
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float
import ml_dtypes
import numpy as np

from vtp_eqx.config import Precision


class RotaryTable(eqx.Module):
    """Cosines and sines of every token; tokens before the grid are unturned."""

    cos: Float[np.ndarray, "seq head"]
    sin: Float[np.ndarray, "seq head"]
    pairing: Literal["halves", "neighbors"] = eqx.field(static=True)
    precision: Precision = eqx.field(static=True)

    def __call__(
        self, heads: Float[Array, "seq num_heads head"]
    ) -> Float[Array, "seq num_heads head"]:
        """`heads` (queries or keys), each token turned by its position."""
        cos, sin = (jnp.asarray(part)[:, None] for part in (self.cos, self.sin))
        if self.precision == "float32":
            wide = heads.astype(jnp.float32)
            turned = wide * cos + _quarter_turn(wide, self.pairing) * sin
            return turned.astype(heads.dtype)  # or it would lift bfloat16 networks
        # The published code rounds the operands and each of the three operations;
        # XLA would keep excess precision in between, so the rounding is spelled out.
        rounded = _bfloat16(heads)
        straight = _bfloat16(rounded * cos)
        across = _bfloat16(_quarter_turn(rounded, self.pairing) * sin)
        return _bfloat16(straight + across)


def axial_table(
    height: int,
    width: int,
    head_width: int,
    *,
    prefix: int = 0,
    precision: Precision = "float32",
) -> RotaryTable:
    """The tokenizer's table for a `height` x `width` grid after `prefix` tokens.

    Coordinates run over (-1, 1) whatever the grid, periods are `100 ** (4i / d)`
    (DINOv3). In "bfloat16" every step of the computation is rounded.
    """
    kind: Any = np.float32 if precision == "float32" else ml_dtypes.bfloat16

    def coordinates(size):
        centers = (np.arange(size).astype(kind) + kind(0.5)) / kind(size)
        return kind(2) * centers - kind(1)

    periods = axial_periods(head_width, precision).astype(kind)
    rows, columns = np.meshgrid(coordinates(height), coordinates(width), indexing="ij")
    grid = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    # 2 pi stays float32 in the product, which is then rounded.
    full_turn = np.float32(2 * np.pi)
    turns = (grid.astype(np.float32) * full_turn).astype(kind)
    angles = (turns[:, :, None] / periods).reshape(height * width, head_width // 2)
    angles = np.tile(angles, 2).astype(np.float32)
    cos, sin = np.cos(angles).astype(kind), np.sin(angles).astype(kind)
    return RotaryTable(
        cos=_with_prefix(prefix, cos, 1.0), sin=_with_prefix(prefix, sin, 0.0),
        pairing="halves", precision=precision,
    )  # fmt: skip


def axial_periods(head_width: int, precision: Precision) -> Float[np.ndarray, " few"]:
    """The periods `100 ** (4i / d)` of `axial_table`, rounded to `precision`.

    So are the exponents, as published; where d / 4 is no power of 2 that is more than
    the last bit.
    """
    kind: Any = np.float32 if precision == "float32" else ml_dtypes.bfloat16
    exponents = (
        np.arange(head_width // 4, dtype=np.float32) / (head_width / 4)
    ).astype(kind)
    # In float64 between the roundings: a power of float32s is off by its last bit.
    return np.power(100.0, exponents.astype(np.float64)).astype(np.float32).astype(kind)


def integer_table(
    height: int, width: int, head_width: int, *, prefix: int = 0
) -> RotaryTable:
    """LightningDiT's table: whole-number coordinates, neighbors paired, float32.

    `prefix` tokens stand before the grid.

    Periods are `10000 ** (4i / d)` as in EVA-02 (Fang et al. 2023).
    """
    frequencies = 10_000.0 ** (-np.arange(head_width // 4) / (head_width / 4))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    grid = np.stack([rows.ravel(), columns.ravel()], axis=-1)
    angles = (grid[:, :, None] * frequencies).reshape(height * width, head_width // 2)
    angles = np.repeat(angles, 2, axis=-1)
    return RotaryTable(
        cos=_with_prefix(prefix, np.cos(angles), 1.0),
        sin=_with_prefix(prefix, np.sin(angles), 0.0),
        pairing="neighbors", precision="float32",
    )  # fmt: skip


def _with_prefix(prefix: int, table: np.ndarray, fill: float) -> np.ndarray:
    head = np.full((prefix, table.shape[1]), fill, np.float32)
    return np.concatenate([head, table.astype(np.float32)])


def _quarter_turn(heads: Array, pairing: str) -> Array:
    """Each plane's vector, a quarter turn on: (x, y) becomes (-y, x)."""
    if pairing == "halves":
        first, second = jnp.split(heads, 2, axis=-1)
        return jnp.concatenate([-second, first], axis=-1)
    pairs = heads.reshape(*heads.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1)
    return turned.reshape(heads.shape)


def _bfloat16(x: Array) -> Array:
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
