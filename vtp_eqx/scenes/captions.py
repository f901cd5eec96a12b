"""The words of a scene: names of its attributes, and captions made of them."""

from collections.abc import Mapping

from jaxtyping import Int
import numpy as np

from vtp_eqx.data.counter_rng import CounterRNG


SHAPES = ("circle", "square", "triangle", "star")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "large")
POSITIONS = ("center", "left", "right", "top", "bottom")
TEXTURES = ("plain", "striped", "checkered", "dotted")
BACKGROUNDS = ("white", "gray", "black", "pink", "cyan")
# In the order of POSITIONS: nothing is beyond the border that an object is at.
RELATIONS = ("none", "left", "right", "above", "below")

# Every attribute that a probe can be asked for, and the names of its values.
NAMES = {
    "shape": SHAPES,
    "color": COLORS,
    "size": SIZES,
    "position": POSITIONS,
    "texture": TEXTURES,
    "background": BACKGROUNDS,
}

_SYNONYMS = {
    "circle": ("circle", "disk"),
    "square": ("square", "box"),
    "small": ("small", "little"),
    "large": ("large", "big"),
    "checkered": ("checkered", "checked"),
    "dotted": ("dotted", "spotted"),
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
}
_BESIDE = ("", "to its left", "to its right", "above it", "below it")

_ALONE = (
    "a {size} {color} {shape} {position} on a {texture} {background} background",
    "{position} a {size} {color} {shape}, {texture} {background} background",
    "{texture} {background} background with a {size} {color} {shape} {position}",
    "{color} {shape}, {size}, {position}, the background {texture} {background}",
)
_PAIRED = (
    "{size} {color} {shape} {position}, {second} {beside}, {texture} {background}",
    "{texture} {background}, {size} {color} {shape} {position}, {second} {beside}",
    "{position} {size} {color} {shape}, {beside} {second}, {texture} {background}",
)


def class_names() -> tuple[str, ...]:
    """The name of every class, `"red circle"` and so on, in the order of labels."""
    return tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)


def describe(
    attributes: Mapping[str, Int[np.ndarray, " n"]], wording: CounterRNG
) -> list[str]:
    """One caption of at most 14 words for each scene; `wording` picks order and words.

    Every caption names all of `NAMES`, and the second object where there is one.
    """
    alone = wording.integer("template/alone", len(_ALONE))
    paired = wording.integer("template/paired", len(_PAIRED))
    words = {name: _worded(name, attributes[name], wording) for name in NAMES}
    captions = []
    for row, relation in enumerate(attributes["relation"]):
        fields = {name: column[row] for name, column in words.items()}
        if relation == 0:
            captions.append(_ALONE[alone[row]].format(**fields))
            continue
        color = COLORS[attributes["second_color"][row]]
        fields["second"] = f"{color} {SHAPES[attributes['second_shape'][row]]}"
        fields["beside"] = _BESIDE[relation]
        captions.append(_PAIRED[paired[row]].format(**fields))
    return captions


def prompts(
    name: str, count: int, values: Mapping[str, Int[np.ndarray, " values"]]
) -> list[list[str]]:
    """`count` captions for each value of an attribute, alike but for its word.

    Classes share their templates, as in CLIP's zero-shot protocol: what else a caption
    says is the same for all, so that it favors none. It says `values` of attributes
    alone, those that the scenes have.
    """
    return [
        _captions(count, {**values, name: np.array([value])}) for value in values[name]
    ]


def class_templates(count: int) -> list[str]:
    """`count` captions with `{}` for the class, which say else what captions say."""
    values = {name: np.arange(len(words)) for name, words in NAMES.items()}
    # A color and a shape without synonyms, so that they are found again.
    for name, value in (("color", "red"), ("shape", "triangle")):
        values[name] = np.array([NAMES[name].index(value)])
    return [
        caption.replace("red triangle", "{}") for caption in _captions(count, values)
    ]


def _captions(
    count: int, values: Mapping[str, Int[np.ndarray, " values"]]
) -> list[str]:
    """`count` captions of scenes whose attributes are drawn from `values`."""
    contexts = CounterRNG(0, np.arange(count))
    attributes = {
        name: values[name][contexts.integer(f"prompt/{name}", len(values[name]))]
        for name in NAMES
    }
    return describe({**attributes, "relation": np.zeros(count, np.int64)}, contexts)


def _worded(name: str, values: Int[np.ndarray, " n"], wording: CounterRNG) -> list[str]:
    """A word, or one of its synonyms, for each value of one attribute."""
    picks = wording.integer(f"synonym/{name}", 2)
    options = [_SYNONYMS.get(word, (word,)) for word in NAMES[name]]
    return [
        options[value][pick % len(options[value])]
        for value, pick in zip(values, picks, strict=True)
    ]
