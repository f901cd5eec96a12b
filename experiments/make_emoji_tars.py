"""Writes captioned emoji of three vendors as WebDataset tars: real pictures.

    python experiments/make_emoji_tars.py --out data/emoji
    python experiments/make_emoji_tars.py --packages FOLDER --vendors google twitter
    python experiments/make_emoji_tars.py --smoke

    python experiments/pretrain.py laptop --out runs/emoji --data data/emoji/train \
        --window 1 --one-shard-batches --validation data/emoji/validation \
        --classes data/emoji/classes.txt --templates data/emoji/templates.txt

Pictures are those of the npm packages emoji-datasource-google, -twitter and -facebook,
16.0.0: tarballs of `npm pack` or folders in `--packages`; what is missing there is
fetched with npm (240 MB). Google's are licensed under Apache 2.0, Twitter's under CC BY
4.0; Facebook's have no clear license. Each example is `KEY.png`, `KEY.txt` (name and
vendor), and `KEY.json`, whose label is the subgroup's line in `classes.txt`.

Some (name, vendor) are held out, of one vendor for a name at most, so that validation
asks for another drawing of what training named. All skin tones and genders of a person
count as one name here. The vendors' versions of a name lie in different tars, and
batches of one tar each never hold two of them as negatives. A tar appears whole or not
at all, and the same options write the same bytes.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import sys
import tempfile

from rich.console import Console
from rich.progress import track
import tyro

from vtp_eqx.data.emoji_packages import (
    fetch_package,
    find_package,
    read_package,
    write_made_up_package,
)
from vtp_eqx.data.emoji_tars import EmojiConfig, write_emoji
from vtp_eqx.data.tars import TarSource
from vtp_eqx.files import require_local_fields
from vtp_eqx.runs.command import exit_with_message


console = Console(width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(EmojiConfig):
    """Which tars are written, and from what."""

    out: Path = Path("data/emoji")
    packages: Path = Path("data/emoji-packages")
    """A folder of the packages; those that it lacks are fetched into it."""


def make(options: Options) -> None:
    """Writes the tars that are missing."""
    require_local_fields(options)
    emoji = []
    for vendor in options.vendors:
        path = find_package(options.packages, vendor)
        if path is None:
            console.print(f"fetching the {vendor} emoji with npm")
            path = fetch_package(options.packages, vendor)
        emoji += read_package(path, vendor)
    progress = lambda paths: track(paths, "painting", console=console)
    tars, num_new = write_emoji(emoji, options, options.out, progress)
    counts = ", ".join(f"{path} {count}" for path, count in tars.items())
    console.print(f"{options.out}: {counts} examples; {num_new} tars are new")


def smoke() -> None:
    """Writes tars of made-up packages twice and reads them."""
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(out=Path(scratch, "tars"), packages=Path(scratch), size=32)
        for vendor in options.vendors:
            write_made_up_package(options.packages, vendor)
        make(options)
        make(options)
        source = TarSource(options.out / "train")
        console.print(f"{len(source)} examples with images: {source[0]['caption']}")


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError):
        if sys.argv[1:] == ["--smoke"]:
            smoke()
        else:
            make(tyro.cli(Options, description=__doc__))
