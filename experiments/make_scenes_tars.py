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

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from concurrent.futures import ProcessPoolExecutor
import dataclasses
import functools
import json
import multiprocessing
from pathlib import Path
import sys
import tempfile

from rich.console import Console
from rich.progress import track
import tyro

from vtp_eqx.config import require
from vtp_eqx.data.tar_writing import write_prompts
from vtp_eqx.data.tars import TarSource
from vtp_eqx.files import require_local_fields, write_text
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.scenes.captions import class_templates
from vtp_eqx.scenes.render import class_names
from vtp_eqx.scenes.tars import TarConfig, write_tar


NUM_TEMPLATES = 32
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TarConfig):
    """Which tars are written."""

    out: Path = Path("data/scenes")
    workers: int = 1
    """Processes that paint."""

    @property
    def shards(self) -> list[Path]:
        return [self.out / f"{shard:05d}.tar" for shard in range(self.num_shards)]


def make(options: Options) -> None:
    """Writes the shards that are missing."""
    require_local_fields(options)
    check_record(options)
    missing = [shard for shard, path in enumerate(options.shards) if not path.is_file()]
    write = functools.partial(write_shard, options)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        # One process paints here, so that small sets need not wait for it to start.
        done = (map if options.workers == 1 else pool.map)(write, missing)
        try:
            for _ in track(done, "painting", len(missing), console=console):
                pass
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # tars being painted end
            raise
    console.print(
        f"{options.num} examples in {len(options.shards)} tars, {len(missing)} of them "
        f"new: {options.out}"
    )


def write_shard(options: Options, shard: int) -> None:
    """Writes one tar."""
    write_tar(options, shard, options.shards[shard])


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
        is_whole = other.keys() == {"num"} and found["num"] % options.per_shard == 0
        if is_whole and found["num"] < options.num:
            other = {}
        require(
            not other,
            f"A folder holds tars of one kind; got {options.out} with {other}: name "
            "another folder.",
        )
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_prompts(options.out, class_names(), class_templates(NUM_TEMPLATES))


def smoke() -> None:
    """Writes a few spoiled scenes and reads them again."""
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(out=Path(scratch), num=48, per_shard=20, corrupt=0.2)
        make(options)
        make(dataclasses.replace(options, num=48))
        source = TarSource(options.out)
        console.print(f"{len(source)} examples with images: {source[0]['caption']}")


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError, seconds=120):
        if sys.argv[1:] == ["--smoke"]:
            smoke()
        else:
            make(tyro.cli(Options, description=__doc__))
