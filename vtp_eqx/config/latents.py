"""What is kept on disk of a data set's latents.

A comment behind a field says where its default comes from: see `vtp_eqx.config`.
"""

import dataclasses
from typing import Literal

from vtp_eqx.config.checks import require


LatentViews = Literal["original", "flip", "augmented"]
LatentDtype = Literal["float32", "float16", "uint8"]
LatentLayout = Literal["npy", "lightningdit"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Which views of each image are encoded, and how their latents are stored."""

    # LightningDiT: the middle of an image, and its mirror image. Ours: "augmented" has
    # random crops beside the middle.
    views: LatentViews = "flip"
    num_augmented: int = 4  # ours: random crops of an image, where views are augmented
    augmented_scale: tuple[float, float] = (0.8, 1.0)  # ours: their share of the area
    dtype: LatentDtype = "float32"  # LightningDiT; "uint8" has a scale a channel
    layout: LatentLayout = "npy"  # ours; the other is what LightningDiT's loader reads
    shard_images: int = 2048  # ours: images of a shard, and what a kill may cost
    limit: int | None = None  # ours: so many images, evenly spread; `None`: all
    seed: int = 0  # of random crops

    def __post_init__(self):
        require(
            self.layout == "npy" or (self.views == "flip" and self.dtype != "uint8"),
            "`layout` ('lightningdit') holds each image and its mirror image in "
            f"float32 or float16; got `views` {self.views!r} and `dtype` "
            f"{self.dtype!r}: change them, or take the layout 'npy'.",
        )
        require(
            self.shard_images > 0 and self.num_augmented > 0,
            f"`shard_images` ({self.shard_images}) and `num_augmented` "
            f"({self.num_augmented}) must be 1 or more: raise them.",
        )

    @property
    def view_names(self) -> tuple[str, ...]:
        """What each view is; the first is always the image itself."""
        more = {
            "original": (),
            "flip": ("flip",),
            "augmented": tuple(f"crop-{n}" for n in range(self.num_augmented)),
        }
        return ("original", *more[self.views])
