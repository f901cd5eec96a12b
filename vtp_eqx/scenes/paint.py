"""Pixels of a scene: background, strokes, shaded objects, light, grain.

Coordinates run from -1 to 1 over the image, x to the right and y downward, so that a
scene looks the same at every size. Only correctly rounded operations touch a pixel
(no sine, no matrix product): an image is the same bits on every machine, and whichever
images are painted beside it.
"""

import dataclasses

from jaxtyping import Float, Float32, Int, UInt8
import numpy as np

from vtp_eqx.data.counter_rng import CounterRNG


Plane = Float32[np.ndarray, "n size size"]
PerImage = Float32[np.ndarray, "n 1 1"]
Column = Float[np.ndarray, " n"]

OBJECT_COLORS = np.array(
    [
        (0.87, 0.13, 0.15),  # red
        (0.98, 0.55, 0.08),  # orange
        (0.97, 0.88, 0.16),  # yellow
        (0.16, 0.66, 0.25),  # green
        (0.16, 0.36, 0.90),  # blue
        (0.57, 0.22, 0.75),  # purple
    ]
)
# Paper and ink of each background: a texture is drawn with the second on the first.
BACKGROUND_COLORS = np.array(
    [
        [(0.96, 0.96, 0.95), (0.78, 0.79, 0.80)],  # white
        [(0.55, 0.56, 0.57), (0.40, 0.41, 0.42)],  # gray
        [(0.08, 0.08, 0.10), (0.25, 0.25, 0.28)],  # black
        [(0.98, 0.76, 0.82), (0.91, 0.57, 0.68)],  # pink
        [(0.62, 0.91, 0.94), (0.36, 0.76, 0.83)],  # cyan
    ]
)
# From the radius of a shape to that of its circle: equal sizes should look equal.
_SCALES = (0.95, 0.85, 0.62, 0.39)
_EDGE = 0.07  # width of the dark edge
_SHADOW = 0.16  # width of the soft shadow


@dataclasses.dataclass(frozen=True)
class Objects:
    """One object for each image; `opacity` 0 leaves it out."""

    shape: Int[np.ndarray, " n"]
    color: Int[np.ndarray, " n"]
    x: Column
    y: Column
    radius: Column
    turn: Column  # radians, clockwise
    tint: Column  # brightness, about 1
    opacity: Column


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Three color planes in [0, 1], and the pixel centers they are sampled at."""

    planes: list[Plane]
    x: Float32[np.ndarray, "1 1 size"]
    y: Float32[np.ndarray, "1 size 1"]

    @property
    def size(self) -> int:
        return self.x.shape[-1]

    def coverage(self, distance: Plane) -> Plane:
        """How much of each pixel is inside, from its signed distance to the edge."""
        return np.clip(0.5 - distance * np.float32(self.size / 2), 0, 1)

    def blend(self, cover: Plane, colors: list[Plane] | list[PerImage]) -> None:
        """Lays `colors` over the planes where `cover` is 1."""
        for plane, color in zip(self.planes, colors, strict=True):
            plane += cover * (color - plane)


def new_canvas(n: int, size: int) -> Canvas:
    """An empty canvas of `n` square images."""
    centers = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    planes = [np.zeros((n, size, size), np.float32) for _ in range(3)]
    return Canvas(planes, centers[None, None, :], centers[None, :, None])


def paint_background(
    canvas: Canvas,
    texture: Int[np.ndarray, " n"],
    color: Int[np.ndarray, " n"],
    nuisance: CounterRNG,
    contrast: float,
) -> None:
    """Fills the canvas; the angle, period and phase of the texture are nuisances."""
    angle = nuisance.uniform("texture/angle", -np.pi / 2, np.pi / 2)
    # Checks and dots are told from stripes at any angle; keep them nearly upright.
    angle = np.where(texture == 1, angle, angle * 0.15)
    rate = 1 / nuisance.uniform("texture/period", 0.40, 0.52)
    u, v = _turned(canvas, angle, rate)
    u += _as_planes(nuisance.uniform("texture/u"))
    v += _as_planes(nuisance.uniform("texture/v"))
    blur = _as_planes(rate) * np.float32(2 / canvas.size)
    ink = np.zeros_like(u)
    for kind, pattern in ((1, _stripes), (2, _checks), (3, _dots)):
        rows = texture == kind
        ink[rows] = pattern(u[rows], v[rows], blur[rows])
    ink *= np.float32(contrast)
    brightness = nuisance.uniform("background/brightness", 0.95, 1.03)
    for channel, plane in enumerate(canvas.planes):
        paper, pen = BACKGROUND_COLORS[color, :, channel].T * brightness
        plane += _as_planes(paper) + ink * _as_planes(pen - paper)


def paint_strokes(canvas: Canvas, nuisance: CounterRNG, most: int) -> None:
    """Draws up to `most` thin strokes of random places and dull colors."""
    count = nuisance.integer("stroke/count", most + 1)
    for stroke in range(most):
        name = f"stroke/{stroke}"
        u, v = _turned(
            canvas,
            nuisance.uniform(f"{name}/angle", 0.0, np.pi),
            np.ones(len(count)),
            nuisance.uniform(f"{name}/x", -0.9, 0.9),
            nuisance.uniform(f"{name}/y", -0.9, 0.9),
        )
        length = _as_planes(nuisance.uniform(f"{name}/length", 0.15, 0.5))
        u = np.maximum(np.abs(u) - length, 0)
        distance = np.sqrt(u * u + v * v) - np.float32(0.035)
        cover = canvas.coverage(distance) * _as_planes((count > stroke) * 0.8)
        colors = [
            _as_planes(nuisance.uniform(f"{name}/{channel}", 0.25, 0.75))
            for channel in range(3)
        ]
        canvas.blend(cover, colors)


def paint_objects(canvas: Canvas, objects: Objects, nuisance: CounterRNG) -> None:
    """Draws one shaded object with a dark edge and a soft shadow in each image."""
    u, v, distance = _object_planes(canvas, objects)
    opacity = _as_planes(objects.opacity)

    # Beyond a sharp corner the distance to the sides grows slowly: without the circle
    # the shadow of a star would have long spikes.
    reach = (np.sqrt(u * u + v * v) - np.float32(1.1)) * _as_planes(objects.radius)
    shadow = 1 - np.maximum(distance, reach) * np.float32(1 / _SHADOW)
    shadow = np.clip(shadow, 0, 1) * np.float32(0.3)
    dark = np.zeros((len(opacity), 1, 1), np.float32)
    canvas.blend(shadow * opacity, [dark, dark, dark])

    light = nuisance.uniform("shade/angle", -np.pi, 0.0)
    side = u * _as_planes(np.cos(light)) + v * _as_planes(np.sin(light))
    shade = _as_planes(objects.tint) * (1 + side * np.float32(0.13))
    # The edge is as dark as the object allows: it keeps the hue.
    shade *= 1 - np.float32(0.62) * (1 - canvas.coverage(distance + np.float32(_EDGE)))
    colors = [
        shade * _as_planes(OBJECT_COLORS[objects.color, channel])
        for channel in range(3)
    ]
    canvas.blend(canvas.coverage(distance) * opacity, colors)


def object_cover(canvas: Canvas, objects: Objects) -> Plane:
    """How much of each pixel the objects cover, without their shadows."""
    _, _, distance = _object_planes(canvas, objects)
    return canvas.coverage(distance) * _as_planes(objects.opacity)


def develop(
    canvas: Canvas, nuisance: CounterRNG, light: float, grain: float
) -> UInt8[np.ndarray, "n size size 3"]:
    """The finished images: uneven light over everything, then noise in each pixel."""
    n, size = canvas.planes[0].shape[:2]
    angle = nuisance.uniform("light/angle", -np.pi, np.pi)
    strength = nuisance.uniform("light/strength", 0.0, light)
    # Darkens more than it brightens, so that white keeps its grain.
    lit = (
        _as_planes(1 - 0.5 * strength)
        + canvas.x * _as_planes(strength * np.cos(angle))
        + canvas.y * _as_planes(strength * np.sin(angle))
    )
    images = np.empty((n, size, size, 3), np.uint8)
    noises = nuisance.noise("grain", size * size)
    for channel, (plane, noise) in enumerate(zip(canvas.planes, noises, strict=True)):
        levels = plane * lit + noise.reshape(plane.shape) * np.float32(grain)
        # Halves go up, not to even as in what is measured: scenes stay as they were.
        images[..., channel] = np.clip(levels * 255 + 0.5, 0, 255)
    return images


def _object_planes(canvas: Canvas, objects: Objects) -> tuple[Plane, Plane, Plane]:
    """Coordinates about each object in its radii, and the distance to its edge."""
    u, v = _turned(canvas, objects.turn, 1 / objects.radius, objects.x, objects.y)
    distance = np.empty_like(u)
    for shape, signed in enumerate((_circle, _square, _triangle, _star)):
        rows = objects.shape == shape
        distance[rows] = signed(u[rows], v[rows])
    return u, v, distance * _as_planes(objects.radius)


def _as_planes(column: np.ndarray) -> PerImage:
    # Rounded in float64 first: the last bit of a cosine is not the same everywhere.
    return np.round(np.asarray(column, np.float64), 6).astype(np.float32)[:, None, None]


def _turned(
    canvas: Canvas,
    angle: Column,
    rate: Column,
    x: Column | float = 0.0,
    y: Column | float = 0.0,
) -> tuple[Plane, Plane]:
    """Coordinates about (x, y), turned by `angle` and multiplied by `rate`."""
    cos, sin = rate * np.cos(angle), rate * np.sin(angle)
    u = canvas.x * _as_planes(cos) + canvas.y * _as_planes(sin)
    v = canvas.y * _as_planes(cos) - canvas.x * _as_planes(sin)
    return u - _as_planes(cos * x + sin * y), v - _as_planes(cos * y - sin * x)


def _wave(u: Plane) -> Plane:
    """A triangle wave of period 1 between -1 and 1."""
    return 1 - 4 * np.abs(u - np.floor(u) - np.float32(0.5))


def _stripes(u: Plane, v: Plane, blur: PerImage) -> Plane:
    return np.clip(0.5 + _wave(u) / (4 * blur), 0, 1)


def _checks(u: Plane, v: Plane, blur: PerImage) -> Plane:
    one, two = _stripes(u * 0.8, v, blur), _stripes(v * 0.8, u, blur)
    return one + two - 2 * one * two


def _dots(u: Plane, v: Plane, blur: PerImage) -> Plane:
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.clip(0.5 + (0.30 - np.sqrt(u * u + v * v)) / blur, 0, 1)


def _edges(u: Plane, v: Plane, directions: int) -> list[Plane]:
    """Heights of a point above the sides of a regular polygon through its center.

    The polygon stands on one side: a corner points up.
    """
    angles = np.pi / 2 + 2 * np.pi * np.arange(directions) / directions
    normals = np.round(np.stack([np.cos(angles), np.sin(angles)]), 6)
    return [u * x + v * y for x, y in normals.astype(np.float32).T]


def _circle(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v) - np.float32(_SCALES[0])


def _square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(_SCALES[1])


def _triangle(u: Plane, v: Plane) -> Plane:
    # Lowered, so that its bounding box is centered and not its corners.
    one, two, three = _edges(u, v - np.float32(_SCALES[2] / 2), 3)
    return np.maximum(np.maximum(one, two), three) - np.float32(_SCALES[2])


def _star(u: Plane, v: Plane) -> Plane:
    # A point of a pentagram is above one side of its pentagon at most: the distance
    # is that of the second highest.
    first, *rest = _edges(u, -v + np.float32(0.1), 5)
    second = np.full_like(first, -np.inf)
    for height in rest:
        second = np.maximum(second, np.minimum(first, height))
        first = np.maximum(first, height)
    return second - np.float32(_SCALES[3])
