"""Named emoji as several vendors draw them, in WebDataset tars.

The vendors' versions of one base, a name without skin tone and gender, lie in different
tars: a run whose batches are of one tar each (`one_shard_batches`) never contrasts an
emoji with another vendor's drawing of it. (A damaged example would be replaced by one
of another tar; these tars have none.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
import io
import json
from pathlib import Path
import tarfile

from jaxtyping import Float
import numpy as np
from PIL import Image

from vtp_eqx.config import require
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.emoji_packages import (
    Emoji,
    package_name,
    read_package,
    Vendor,
    VERSION,
    write_made_up_package,
)
from vtp_eqx.data.tar_writing import add_example, write_prompts
from vtp_eqx.files import atomic_path, write_text


RECORD = "emoji.json"  # options, version, and the rule of what is held out
HELD_OUT = "one vendor's drawings of a base"  # earlier tars: of a name
GROUPS = "groups.txt"  # the group of each class, in the order of labels
CAPTIONS = ("{name}, a {vendor} emoji", "{vendor} emoji: {name}", "{name} by {vendor}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmojiConfig:
    """How emoji become examples. All values are ours."""

    vendors: tuple[Vendor, ...] = ("google", "twitter", "facebook")
    """Whose emoji; the packages say what each of them licenses."""
    size: int = 64
    """Side of the images in pixels; those of the packages have 64."""
    validation: float = 0.1
    """Share of the (base, vendor) that are held out, at most one of each base: all skin
    tones and genders of a vendor's person, as they look alike."""
    white: float = 0.25
    """Share of the backgrounds that are white; half of the others have one color, and
    half run from one to another."""
    seed: int = 0
    """Of backgrounds, captions and tars; what is held out does not depend on it."""

    def __post_init__(self):
        count = len(self.vendors)
        require(
            count > 0 and len({*self.vendors}) == count,
            f"`vendors` must be one or more, each once; got {self.vendors}: name "
            "others.",
        )
        require(
            0 < self.validation <= 1 / count,
            f"`validation` ({self.validation}) must be above 0 and at most "
            f"1 / {count}, as one version of a name is held out at most: change it.",
        )
        require(
            0 <= self.white <= 1 and self.size > 0,
            "Backgrounds are white with a share in [0, 1], and images have a size; got "
            f"`white` {self.white} and `size` {self.size}: change one.",
        )


def class_names(emoji: Sequence[Emoji]) -> list[str]:
    """The subgroups in the order of their labels, as words."""
    subgroups = sorted({one.subgroup for one in emoji})
    return [subgroup.replace("-", " ") for subgroup in subgroups]


def class_templates(vendors: Sequence[str]) -> list[str]:
    """Prompts that sound like captions, with {} for the class."""
    return [
        caption.format(name="{}", vendor=vendor.capitalize())
        for caption in CAPTIONS
        for vendor in vendors
    ]


def write_emoji(
    emoji: Sequence[Emoji],
    config: EmojiConfig,
    folder: Path,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> tuple[dict[str, int], int]:
    """Writes the tars that `folder` lacks, names and groups of classes, and prompts.

    Returns the examples of each tar by its path, and how many tars are new. A
    `ValueError` where `folder` has tars of other options.
    """
    names, tars = class_names(emoji), arrange(emoji, config)
    # Not what options of a command have beside these.
    options = [field.name for field in dataclasses.fields(EmojiConfig)]
    record = {name: getattr(config, name) for name in options}
    record |= {"version": VERSION, "held_out": HELD_OUT}
    text, path = json.dumps(record, indent=1) + "\n", folder / RECORD
    require(
        not path.is_file() or path.read_text() == text,
        f"A folder holds tars of one kind; got {folder} with those of other options "
        f"(see its {RECORD}): name another folder.",
    )
    write_text(path, text)
    write_prompts(folder, names, class_templates(config.vendors))
    groups = {one.subgroup.replace("-", " "): one.group for one in emoji}
    write_text(folder / GROUPS, "\n".join(groups[name] for name in names) + "\n")
    missing = [path for path in tars if not (folder / path).is_file()]
    for path in progress(missing):
        write_tar(tars[path], names, config, folder / path)
    return {path: len(members) for path, members in tars.items()}, len(missing)


def write_made_up_emoji(folder: Path, config: EmojiConfig) -> Path:
    """The folder of tars of discs that are none of the vendors', 60 of each."""
    emoji = []
    for vendor in config.vendors:
        write_made_up_package(folder, vendor, 60)
        emoji += read_package(folder / package_name(vendor), vendor)
    write_emoji(emoji, config, folder / "tars")
    return folder / "tars"


def arrange(emoji: Sequence[Emoji], config: EmojiConfig) -> dict[str, list[Emoji]]:
    """The emoji of each tar by its path, `train/00000.tar` and so on.

    There are as many of training as vendors, and `validation/00000.tar`. None has two
    vendors' versions of a base. What is held out is a function of base and vendor
    alone.
    """
    bases = _hashes([one.base for one in emoji])
    held_out = CounterRNG(0, bases)
    of_vendor = np.array([config.vendors.index(one.vendor) for one in emoji])
    count = len(config.vendors)
    chosen = held_out.integer("emoji/vendor", count) == of_vendor
    chosen &= held_out.uniform("emoji/held out") < config.validation * count
    order = CounterRNG(config.seed, bases).permutation("emoji/tar", count)
    tars = {f"train/{tar:05d}.tar": [] for tar in range(count)}
    tars["validation/00000.tar"] = []
    for row, one in enumerate(emoji):
        tar = f"train/{order[row, of_vendor[row]]:05d}.tar"
        tars["validation/00000.tar" if chosen[row] else tar].append(one)
    for path, members in tars.items():
        require(
            bool(members),
            f"{path} would have no example of {len(emoji)}: hold out another share.",
        )
    return tars


def write_tar(
    members: Sequence[Emoji], labels: Sequence[str], config: EmojiConfig, path: Path
) -> None:
    """Writes a tar as img2dataset does; the same arguments write the same bytes.

    Each example is `KEY.png`, `KEY.json` with caption, label and what else is known,
    and `KEY.txt`. `labels` are `class_names`. A file that is there is replaced at once,
    or not at all.
    """
    rng = CounterRNG(config.seed, _hashes([one.key for one in members]))
    texts = rng.integer("emoji/caption", len(CAPTIONS))
    backgrounds = paint_backgrounds(rng, config)
    with atomic_path(path) as unfinished, tarfile.open(unfinished, "w") as tar:
        for row, (one, background) in enumerate(zip(members, backgrounds, strict=True)):
            content = io.BytesIO()
            compose(one.png, background).save(content, "PNG")
            vendor = one.vendor.capitalize()
            caption = CAPTIONS[texts[row]].format(name=one.name, vendor=vendor)
            record = dataclasses.asdict(one)
            del record["png"]
            record |= {
                "caption": caption,
                "label": labels.index(one.subgroup.replace("-", " ")),
                "width": config.size,
                "height": config.size,
            }
            files = {
                "png": content.getvalue(),
                "json": json.dumps(record).encode(),
                "txt": caption.encode(),
            }
            add_example(tar, one.key, files)


def paint_backgrounds(
    rng: CounterRNG, config: EmojiConfig
) -> Iterator[Float[np.ndarray, "size size 3"]]:
    """For each counter, white, one color, or a slope between two, in [0, 255]."""
    kind = rng.uniform("emoji/background")
    angle = rng.uniform("emoji/angle", 0, 2 * np.pi)
    ends = np.stack(
        [
            rng.uniform(f"emoji/color/{end}/{channel}", 0, 255)
            for end in range(2)
            for channel in range(3)
        ],
        axis=1,
    ).reshape(-1, 2, 3)
    ends[kind < (1 + config.white) / 2, 1] = ends[kind < (1 + config.white) / 2, 0]
    ends[kind < config.white] = 255
    places = (np.arange(config.size) + 0.5) / config.size - 0.5
    for turn, (start, end) in zip(angle, ends, strict=True):
        along = places * np.cos(turn) + places[:, None] * np.sin(turn)
        share = along / (abs(np.cos(turn)) + abs(np.sin(turn))) + 0.5
        yield start + share[..., None] * (end - start)


def compose(png: bytes, background: Float[np.ndarray, "size size 3"]) -> Image.Image:
    """A drawing over its background, in the size of that."""
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    height, width, _ = background.shape
    if drawing.size != (width, height):
        drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(drawing, np.float64)
    cover = pixels[..., 3:] / 255
    both = cover * pixels[..., :3] + (1 - cover) * background
    return Image.fromarray(np.rint(both).astype(np.uint8))


def _hashes(names: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)
