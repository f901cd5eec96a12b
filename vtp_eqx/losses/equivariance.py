"""Transformations of latents and of images, under which decoders may be equivariant.

A grid is float32 `[batch, height, width, channels]`: latents, or pixels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vtp_eqx.config import require


Grids = Float[Array, "batch height width channels"]


def shrunk(grids: Grids, factor: int) -> Float[Array, "batch rows columns channels"]:
    """The means of `factor` x `factor` cells; bilinear resizing for a factor of 2.

    `factor` must divide height and width, else `ValueError`.
    """
    batch, height, width, channels = grids.shape
    require(
        height % factor == 0 and width % factor == 0,
        f"`factor` ({factor}) must divide the sides of what it makes smaller; got "
        f"{height} x {width}: take another.",
    )
    rows, columns = height // factor, width // factor
    cells = grids.reshape(batch, rows, factor, columns, factor, channels)
    return cells.mean(axis=(2, 4))


def turned(grids: Grids, turns: Int[Array, " batch"]) -> Grids:
    """Each grid turned against the clock by its number of quarters, 0 to 3.

    Grids must be square, else `ValueError`.
    """
    _, height, width, _ = grids.shape
    require(
        height == width,
        f"`grids` must be square to be turned; got {height} x {width}: crop them.",
    )
    quarters = [lambda grid, by=by: jnp.rot90(grid, by) for by in range(4)]
    return jax.vmap(lambda grid, by: jax.lax.switch(by, quarters, grid))(grids, turns)
