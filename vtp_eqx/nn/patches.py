"""Images as sequences of patches, and back.

Tokens run row by row; inside a patch, pixels run row by row with the channel fastest.
"""

from einops import rearrange
from jaxtyping import Array, Float

from vtp_eqx.config import require


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of `height` x `width` pixels."""
    require(
        height % patch_size == 0 and width % patch_size == 0,
        "The image's sides must be multiples of `patch_size`; got "
        f"{height} x {width} and {patch_size}: resize or crop the image.",
    )
    return height // patch_size, width // patch_size


def patchify(
    image: Float[Array, "height width channels"], patch_size: int
) -> Float[Array, "num_patches pixels"]:
    """The patches of an image, one row each."""
    height, width, _ = image.shape
    patch_grid(height, width, patch_size)
    return rearrange(
        image, "(h p) (w q) c -> (h w) (p q c)", p=patch_size, q=patch_size
    )


def unpatchify(
    patches: Float[Array, "num_patches pixels"], grid: tuple[int, int], patch_size: int
) -> Float[Array, "height width channels"]:
    """The image whose patches these are; undoes `patchify`."""
    return rearrange(
        patches,
        "(h w) (p q c) -> (h p) (w q) c",
        h=grid[0],
        w=grid[1],
        p=patch_size,
        q=patch_size,
    )
