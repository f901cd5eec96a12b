"""Crops: images of any size to squares, each as a published protocol does it.

A crop is a function from uint8 pixels to uint8 pixels, by Pillow's antialiased filters,
and its `repr` names it on an evaluation card.
"""

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from vtp_eqx.config import require
from vtp_eqx.data.images import MAX_PIXELS, TOO_LARGE


Pixels = UInt8[np.ndarray, "height width 3"]
Square = UInt8[np.ndarray, "size size 3"]


@runtime_checkable
class Crop(Protocol):
    """A function from an image to a square, `size` pixels a side."""

    @property
    def size(self) -> int: ...

    def __call__(self, image: Pixels) -> Square: ...


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle square: halves by boxes while large, then bicubic, then cuts.

    The crop of ADM (Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233), with
    which VTP measures reconstructions and generators are trained. An image that is that
    square already passes unchanged.
    """

    size: int

    def __call__(self, image: Pixels) -> Square:
        if image.shape[:2] == (self.size, self.size):
            return image
        picture = Image.fromarray(image)
        while min(picture.size) >= 2 * self.size:
            width, height = picture.size
            picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
        scale = self.size / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = _resize(picture, width, height, Image.Resampling.BICUBIC)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return _crop(picture, top, left, self.size)


@dataclasses.dataclass(frozen=True)
class Resize:
    """All of the image, its sides scaled apart: bilinear, as VTP's zero-shot test."""

    size: int

    def __call__(self, image: Pixels) -> Square:
        picture = Image.fromarray(image)
        return np.array(
            picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        )


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop:
    """The short side to `short` by bicubic, then the middle: as DINOv2's probe.

    `ResizeCenterCrop(256, 224)` is the usual one; sides round as in torchvision.
    """

    short: int
    size: int

    def __post_init__(self):
        require(
            self.size <= self.short,
            "The middle is cut out of the resized image, so `size` is at most `short`; "
            f"got {self.size} and {self.short}: change either.",
        )

    def __call__(self, image: Pixels) -> Square:
        picture = Image.fromarray(image)
        width, height = picture.size
        if width <= height:
            width, height = self.short, int(self.short * height / width)
        else:
            width, height = int(self.short * width / height), self.short
        picture = _resize(picture, width, height, Image.Resampling.BICUBIC)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return _crop(picture, top, left, self.size)


@dataclasses.dataclass(frozen=True)
class SquareCrop:
    """The largest square, resized by bicubic; `place` says where on the long side.

    0 is its start, 1 its end, and 0.5 the middle. Equals to resize the short side and
    then to cut, but nothing is resized that is cut off. The squares that training makes
    its views of, with random places.
    """

    size: int

    def __call__(self, image: Pixels, place: float = 0.5) -> Square:
        height, width, _ = image.shape
        side = min(height, width)
        left, top = place * (width - side), place * (height - side)
        if height == width == self.size:
            return image
        return np.array(
            Image.fromarray(image).resize(
                (self.size, self.size),
                Image.Resampling.BICUBIC,
                box=(left, top, left + side, top + side),
            )
        )


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A box of random area and shape, resized by bicubic, mirrored half the time.

    torchvision's RandomResizedCrop with its defaults, which DINOv2's probe trains with;
    `crop(image, rng)` draws from `rng` alone.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_rate: float = 0.5

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Square:
        height, width, _ = image.shape
        left, top, across, down = self._box(width, height, rng)
        picture = Image.fromarray(image[top : top + down, left : left + across])
        picture = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        if rng.random() < self.flip_rate:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(picture)

    def _box(
        self, width: int, height: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        low, high = self.aspect
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = np.exp(rng.uniform(np.log(low), np.log(high)))
            across, down = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < across <= width and 0 < down <= height:
                left = int(rng.integers(0, width - across + 1))
                top = int(rng.integers(0, height - down + 1))
                return left, top, across, down
        # No box of that shape fits: the largest middle one that does.
        across = min(width, max(1, round(height * high)))
        down = min(height, max(1, round(width / low)))
        return (width - across) // 2, (height - down) // 2, across, down


def _resize(
    picture: Image.Image, width: int, height: int, resampling: Image.Resampling
) -> Image.Image:
    require(
        width * height <= MAX_PIXELS,
        f"{picture.size[0]} x {picture.size[1]} pixels, too long to be resized to "
        f"{width} x {height}: {TOO_LARGE}",
    )
    return picture.resize((width, height), resampling)


def _crop(picture: Image.Image, top: int, left: int, size: int) -> Square:
    return np.array(picture.crop((left, top, left + size, top + size)))
