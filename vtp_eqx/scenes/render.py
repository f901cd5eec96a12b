"""Procedural captioned scenes: the data set that needs no network and no disk.

A scene is a function of (config, index). It shows one large object on a textured
background; harder scenes are smaller, more turned, more cluttered, noisier, and up to
half of them have a second object. The class is the shape and color of the object.

Indices come in groups of four: the members of a group share every attribute that a
caption names *except the shape*, of which each member has another, and differ in all
that a caption does not name. A contrastive batch made of whole groups therefore cannot
be solved by color and background alone.
"""

from collections.abc import Iterator
import dataclasses
from pathlib import Path

from jaxtyping import Bool, Int, Integer, UInt8
import numpy as np
from PIL import Image

from vtp_eqx.config import require
from vtp_eqx.config.fields import later
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.scenes.captions import (
    BACKGROUNDS,
    class_names,
    COLORS,
    describe,
    NAMES as NAMES,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)
from vtp_eqx.scenes.paint import (
    develop,
    new_canvas,
    object_cover,
    Objects,
    paint_background,
    paint_objects,
    paint_strokes,
)


GROUP = len(SHAPES)
NUM_CLASSES = len(SHAPES) * len(COLORS)
STUDY_DIFFICULTY = 0.7  # ours: of scenes that networks are trained on
# Far beyond any training index, so that the validation scenes stay the same ones when
# the number of training scenes changes.
_VALIDATION_START = NUM_CLASSES * 2**30
# In the order of POSITIONS and RELATIONS; y points downward.
_DIRECTIONS = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
_CHUNK = 64  # images painted together: their planes fit the cache of one core


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Which scenes there are. All values are ours."""

    size: int = 32  # side of the square image, in pixels
    difficulty: float = 0.2  # 0 easy, 1 hard; from above 0.5 on with second objects
    num_train: int = 24_000
    num_validation: int = 4_800
    seed: int = 0
    textures: tuple[str, ...] = later(TEXTURES)  # of backgrounds, equally frequent
    # Whether validation scenes come in groups that differ in shape alone, as training
    # scenes do, or one of each group, so that their attributes are independent.
    validation_in_groups: bool = later(True)

    def __post_init__(self):
        known = set(self.textures) <= set(TEXTURES)
        require(
            known and 0 < len(set(self.textures)) == len(self.textures),
            f"`textures` are some of {TEXTURES}, each once; got {self.textures}: name "
            "one or more.",
        )
        require(
            self.size >= 16,
            f"A scene needs 16 pixels a side to be readable; got {self.size}: "
            "enlarge `size`.",
        )
        require(
            0 <= self.difficulty <= 1,
            f"`difficulty` lies between 0 and 1; got {self.difficulty}: clip it.",
        )
        for name in ("num_train", "num_validation"):
            number = getattr(self, name)
            require(
                0 < number <= _VALIDATION_START and number % NUM_CLASSES == 0,
                f"`{name}` must be a positive multiple of {NUM_CLASSES}, so that every "
                f"class is equally frequent; got {number}: round it.",
            )

    @property
    def train_indices(self) -> Int[np.ndarray, " n"]:
        """Indices of the training scenes, in order."""
        return np.arange(self.num_train)

    @property
    def validation_indices(self) -> Int[np.ndarray, " n"]:
        """Indices of the validation scenes, in order; none is a training index."""
        count = np.arange(self.num_validation)
        if self.validation_in_groups:
            return _VALIDATION_START + count
        # Of each group the member whose shape is due, so that all classes are equally
        # frequent.
        groups = _VALIDATION_START // GROUP + count
        shapes = CounterRNG(self.seed, groups).permutation("shape", len(SHAPES))
        due = count // len(COLORS) % len(SHAPES)
        return groups * GROUP + np.argmax(shapes == due[:, None], axis=1)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Rendered scenes, row by row.

    `attributes` holds `NAMES` as indices into their value names, and `relation`,
    `second_shape`, `second_color` (meaningless where `relation` is 0, "none").
    """

    index: Int[np.ndarray, " n"]
    image: UInt8[np.ndarray, "n size size 3"]
    caption: list[str]
    label: Int[np.ndarray, " n"]
    attributes: dict[str, Int[np.ndarray, " n"]]

    def arrays(self) -> dict[str, np.ndarray]:
        """One array for each field, as the loader takes them and a disk gives them."""
        return {
            "id": self.index,
            "image": self.image,
            "caption": np.array(self.caption),
            "label": self.label,
            **self.attributes,
        }


def render(config: SceneConfig, indices: Integer[np.ndarray, " n"]) -> Scenes:
    """The scenes at `indices`; row `i` depends on `config` and `indices[i]` alone."""
    indices = indices.astype(np.int64)
    attributes = _attributes(config, indices)
    images = np.empty((len(indices), config.size, config.size, 3), np.uint8)
    for rows, some, nuisance in _chunks(config, indices, attributes):
        images[rows] = _paint(config, some, nuisance)
    return Scenes(
        index=indices,
        image=images,
        caption=describe(attributes, CounterRNG(config.seed, indices)),
        label=attributes["shape"] * len(COLORS) + attributes["color"],
        attributes=attributes,
    )


def object_masks(
    config: SceneConfig, indices: Integer[np.ndarray, " n"]
) -> Bool[np.ndarray, "n size size"]:
    """The pixels of the scenes at `indices` that are more than half object.

    Those of the second object too, where there is one.
    """
    indices = indices.astype(np.int64)
    attributes = _attributes(config, indices)
    masks = np.empty((len(indices), config.size, config.size), bool)
    for rows, some, nuisance in _chunks(config, indices, attributes):
        canvas = new_canvas(len(indices[rows]), config.size)
        main = _main_objects(some, nuisance, config.difficulty)
        cover = object_cover(canvas, main)
        if some["relation"].any():
            second = _second_objects(some, main, nuisance)
            cover = np.maximum(cover, object_cover(canvas, second))
        masks[rows] = cover > 0.5
    return masks


def _chunks(
    config: SceneConfig, indices: np.ndarray, attributes: dict[str, np.ndarray]
) -> Iterator[tuple[slice, dict[str, np.ndarray], CounterRNG]]:
    """Some scenes at a time: their rows, attributes and random numbers."""
    for start in range(0, len(indices), _CHUNK):
        rows = slice(start, start + _CHUNK)
        some = {name: values[rows] for name, values in attributes.items()}
        yield rows, some, CounterRNG(config.seed, indices[rows])


def write_folders(scenes: Scenes, folder: Path) -> None:
    """Writes each scene as a PNG into the folder of its class, `red circle/12.png`."""
    names = class_names()
    for index, image, label in zip(
        scenes.index, scenes.image, scenes.label, strict=True
    ):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")


def _attributes(
    config: SceneConfig, indices: Int[np.ndarray, " n"]
) -> dict[str, Int[np.ndarray, " n"]]:
    """What a caption names. All but the shape is drawn from the group alone."""
    groups = indices // GROUP
    draws = CounterRNG(config.seed, groups)
    rows = np.arange(len(indices))
    # Colors are dealt, not drawn: every run of six groups has each of them once.
    deals = CounterRNG(config.seed, groups // len(COLORS)).permutation(
        "color", len(COLORS)
    )
    color = deals[rows, groups % len(COLORS)]
    position = draws.integer("position", len(POSITIONS))
    second = draws.uniform("second") < max(0.0, config.difficulty - 0.5)
    relation = 1 + draws.integer("relation", len(RELATIONS) - 1)
    opposite = 1 + ((relation - 1) ^ 1)
    relation = np.where(relation == position, opposite, relation)
    others = 1 + draws.integer("second_color", len(COLORS) - 1)
    textures = np.array([TEXTURES.index(name) for name in config.textures])
    return {
        "shape": draws.permutation("shape", len(SHAPES))[rows, indices % GROUP],
        "color": color,
        "size": draws.integer("size", len(SIZES)),
        "position": position,
        "texture": textures[draws.integer("texture", len(textures))],
        "background": draws.integer("background", len(BACKGROUNDS)),
        "relation": np.where(second, relation, 0),
        "second_shape": draws.integer("second_shape", len(SHAPES)),
        "second_color": (color + others) % len(COLORS),
    }


def _paint(
    config: SceneConfig,
    attributes: dict[str, Int[np.ndarray, " n"]],
    nuisance: CounterRNG,
) -> UInt8[np.ndarray, "n size size 3"]:
    hard = config.difficulty
    canvas = new_canvas(len(nuisance.counters), config.size)
    paint_background(
        canvas,
        attributes["texture"],
        attributes["background"],
        nuisance,
        contrast=1 - 0.35 * hard,
    )
    paint_strokes(canvas, nuisance, most=round(5 * hard))
    main = _main_objects(attributes, nuisance, hard)
    paint_objects(canvas, main, nuisance)
    if attributes["relation"].any():
        paint_objects(canvas, _second_objects(attributes, main, nuisance), nuisance)
    return develop(
        canvas, nuisance, light=0.08 + 0.2 * hard, grain=0.008 + 0.022 * hard
    )


def _main_objects(
    attributes: dict[str, Int[np.ndarray, " n"]], nuisance: CounterRNG, hard: float
) -> Objects:
    # Half-sizes 0.48 and 0.68 of half the image when easy, 0.34 and 0.50 when hard.
    middle = np.where(attributes["size"] == 0, 0.48 - 0.14 * hard, 0.68 - 0.18 * hard)
    radius = middle + nuisance.uniform("radius", -0.035, 0.035)
    away = _DIRECTIONS[attributes["position"]]
    offset = nuisance.uniform("offset", 0.25, 0.31 + 0.1 * hard)
    most = 0.12 + 0.4 * hard
    return Objects(
        shape=attributes["shape"],
        color=attributes["color"],
        x=away[:, 0] * offset + nuisance.uniform("x", -0.04, 0.04),
        y=away[:, 1] * offset + nuisance.uniform("y", -0.04, 0.04),
        radius=radius,
        turn=nuisance.uniform("turn", -most, most),
        tint=nuisance.uniform("tint", 0.92, 1.06),
        opacity=np.ones(len(radius)),
    )


def _second_objects(
    attributes: dict[str, Int[np.ndarray, " n"]], main: Objects, nuisance: CounterRNG
) -> Objects:
    """Smaller objects that touch the main one on the side that `relation` names."""
    radius = nuisance.uniform("second/radius", 0.22, 0.26)
    away = _DIRECTIONS[attributes["relation"]]
    distance = main.radius + 0.8 * radius
    return Objects(
        shape=attributes["second_shape"],
        color=attributes["second_color"],
        x=np.clip(main.x + away[:, 0] * distance, -1 + radius, 1 - radius),
        y=np.clip(main.y + away[:, 1] * distance, -1 + radius, 1 - radius),
        radius=radius,
        turn=nuisance.uniform("second/turn", -0.3, 0.3),
        tint=nuisance.uniform("second/tint", 0.92, 1.06),
        opacity=(attributes["relation"] > 0).astype(np.float64),
    )
