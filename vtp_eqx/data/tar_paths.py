"""Which tars a folder, a path or a pattern names."""

from collections.abc import Iterator
import glob
import itertools
from pathlib import Path
import re

from vtp_eqx.config import require


_BRACES = re.compile(r"\{([^{}]*)\}")


def expand(tars: str | Path) -> tuple[Path, ...]:
    """The paths of the tars that `tars` names, in order; at least one.

    A folder means the `.tar` files in it by name. In a pattern, `{00..19}` means each
    number and `{a,b}` each word, whether the file is there or not; `*`, `?` and `[...]`
    mean the files that are there.
    """
    path = Path(tars)
    found: list[str | Path] = []
    if path.is_dir():
        found += tars_in(path)
    elif path.exists():
        found = [path]
    elif _BRACES.search(str(path)) or glob.has_magic(str(path)):
        for word in _braced(str(path)):
            found += sorted(glob.glob(word)) if glob.has_magic(word) else [word]
    require(
        bool(found),
        f"Tars are named by a folder, a file or a pattern; found none for {tars}: "
        "check the path.",
    )
    return tuple(map(Path, found))


def tars_in(folder: Path) -> list[Path]:
    """The tars in a folder by name; none where it is no folder.

    Hidden ones are notes that macOS keeps about the others.
    """
    return sorted(
        path for path in folder.glob("*.tar") if not path.name.startswith(".")
    )


def _braced(pattern: str) -> Iterator[str]:
    """All the words that the braces of a pattern stand for, the last brace fastest."""
    pieces = _BRACES.split(pattern)
    choices = [
        _choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces)
    ]
    return map("".join, itertools.product(*choices))


def _choices(inside: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if not dots:
        return inside.split(",")
    require(
        first.isdecimal() and last.isdecimal() and int(first) <= int(last),
        "Braces hold a range of numbers or words with commas; got "
        f"{{{inside}}}: write it as in {{00000..00099}}.",
    )
    width = len(first) if len(first) == len(last) else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
