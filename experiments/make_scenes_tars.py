"""Writes captioned scenes as WebDataset tars, to try pre-training on without network.

    python experiments/make_scenes_tars.py --out data/scenes --num 24000
    python experiments/make_scenes_tars.py --out data/large --num 10000000 --size 256 \
        --format jpg
    python experiments/make_scenes_tars.py --out data/torn --num 2400 --corrupt 0.05
    python experiments/make_scenes_tars.py --smoke

Each example is `KEY.jpg` (or `.png`, `.webp`), `KEY.txt`, and `KEY.json` with caption
and label, as img2dataset writes them; `classes.txt` names the labels, and
`templates.txt` has prompts to name them with. A shard appears whole or not at all, and
the same command continues where it was killed; the same options write the same bytes.
`--corrupt` spoils a share of the examples in the ways that real sets are: cut and empty
images, no image at all, and captions that are empty, 100 kB long or not UTF-8.
"""

from concurrent.futures import ProcessPoolExecutor
import dataclasses
import io
import json
import multiprocessing
from pathlib import Path
import sys
import tarfile
import tempfile
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
import tyro

from vtp_eqx.config import require
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.tars import TarSource
from vtp_eqx.files import atomic_path
from vtp_eqx.scenes.captions import class_templates
from vtp_eqx.scenes.render import class_names, render, SceneConfig


FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
NUM_TEMPLATES = 32
DAMAGES = ("cut", "empty", "no image", "no caption", "long caption", "latin caption")
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which tars are written."""

    out: Path = Path("data/scenes")
    num: int = 24_000
    """Examples in all; consecutive groups of four differ in the shape alone."""
    size: int = 32
    """Side of the images in pixels."""
    per_shard: int = 1_000
    format: Literal["jpg", "png", "webp"] = "png"
    quality: int = 90
    """Of jpg and webp."""
    difficulty: float = 0.2
    seed: int = 0
    split: Literal["train", "validation"] = "train"
    corrupt: float = 0.0
    """Share of the examples that are spoiled."""
    workers: int = 1
    """Processes that paint."""

    def __post_init__(self):
        require(
            self.num > 0 and self.per_shard > 0 and 0 <= self.corrupt <= 1,
            "Tars hold examples, of which a share may be spoiled; got "
            f"{self.num} in shards of {self.per_shard}, {self.corrupt} of them: "
            "change one.",
        )

    @property
    def scenes(self) -> SceneConfig:
        return SceneConfig(size=self.size, difficulty=self.difficulty, seed=self.seed)

    @property
    def indices(self) -> np.ndarray:
        first = self.scenes.validation_indices[0] if self.split == "validation" else 0
        return first + np.arange(self.num)

    @property
    def shards(self) -> list[Path]:
        count = -(-self.num // self.per_shard)
        return [self.out / f"{shard:05d}.tar" for shard in range(count)]


def make(options: Options) -> None:
    """Writes the shards that are missing."""
    check_record(options)
    missing = [shard for shard, path in enumerate(options.shards) if not path.is_file()]
    jobs = [(options, shard) for shard in missing]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        # One process paints here, so that small sets need not wait for it to start.
        done = (
            map(write_shard, jobs)
            if options.workers == 1
            else pool.map(write_shard, jobs)
        )
        for _ in track(done, "painting", len(jobs), console=console):
            pass
    console.print(
        f"{options.num} examples in {len(options.shards)} tars, {len(missing)} of them "
        f"new: {options.out}"
    )


def check_record(options: Options) -> None:
    """Keeps in `scenes.json` what the folder holds; refuses to mix it with others."""
    record = dataclasses.asdict(options)
    del record["out"], record["workers"]
    path = options.out / "scenes.json"
    if path.is_file():
        found = json.loads(path.read_text())
        other = {
            name: value for name, value in found.items() if record.get(name) != value
        }
        # More examples may be added, where no shard has to change.
        if other.keys() == {"num"} and found["num"] % options.per_shard == 0:
            other = {}
        require(
            not other,
            f"A folder holds tars of one kind; got {options.out} with {other}: name "
            "another folder.",
        )
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n")
    lines = {"classes": class_names(), "templates": class_templates(NUM_TEMPLATES)}
    for name, those in lines.items():
        with atomic_path(options.out / f"{name}.txt") as unfinished:
            unfinished.write_text("\n".join(those) + "\n")


def write_shard(job: tuple[Options, int]) -> None:
    """Writes one tar."""
    options, shard = job
    places = np.arange(shard * options.per_shard, (shard + 1) * options.per_shard)
    places = places[places < options.num]
    scenes = render(options.scenes, options.indices[places])
    draws = CounterRNG(options.seed, scenes.index)
    spoiled = draws.uniform("tars/corrupt") < options.corrupt
    damages = draws.integer("tars/damage", len(DAMAGES))
    with (
        atomic_path(options.shards[shard]) as unfinished,
        tarfile.open(unfinished, "w") as tar,
    ):
        for row, place in enumerate(places.tolist()):
            fields = {"label": int(scenes.label[row]), "index": int(scenes.index[row])}
            members = members_of(
                scenes.image[row], scenes.caption[row], fields, options
            )
            if spoiled[row]:
                spoil(members, DAMAGES[damages[row]], options.format)
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{place:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def members_of(
    image: np.ndarray, caption: str, fields: dict, options: Options
) -> dict[str, bytes]:
    """The files of one example by suffix, in the order of img2dataset."""
    content = io.BytesIO()
    lossy = {} if options.format == "png" else {"quality": options.quality}
    Image.fromarray(image).save(content, FORMATS[options.format], **lossy)
    record = {
        "caption": caption,
        **fields,
        "width": image.shape[1],
        "height": len(image),
    }
    return {
        options.format: content.getvalue(),
        "json": json.dumps(record).encode(),
        "txt": caption.encode(),
    }


def spoil(members: dict[str, bytes], damage: str, suffix: str) -> None:
    """Damages the files of one example in place."""
    if damage == "cut":
        members[suffix] = members[suffix][: len(members[suffix]) // 2]
    elif damage == "empty":
        members[suffix] = b""
    elif damage == "no image":
        del members[suffix]
    elif damage == "no caption":
        members["txt"] = b""
    elif damage == "long caption":
        members["txt"] = (members["txt"] + b" ") * (100_000 // len(members["txt"]))
    else:
        members["txt"] = members["txt"] + b" caf\xe9"


def smoke() -> None:
    """Writes a few spoiled scenes and reads them again."""
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(out=Path(scratch), num=48, per_shard=20, corrupt=0.2)
        make(options)
        make(dataclasses.replace(options, num=48))
        source = TarSource(options.out)
        console.print(f"{len(source)} examples with images: {source[0]['caption']}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--smoke"]:
        smoke()
    else:
        make(tyro.cli(Options, description=__doc__))
