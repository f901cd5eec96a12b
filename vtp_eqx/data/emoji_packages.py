"""Emoji of several vendors from packages of npm: emoji-datasource-google and others."""

from collections import Counter
from collections.abc import Iterator
import dataclasses
import io
import json
from pathlib import Path
import subprocess
import tarfile
import tempfile
from typing import Any, Literal
import zlib

from PIL import Image, ImageDraw

from vtp_eqx.config import require
from vtp_eqx.file_kinds import describe_error


Vendor = Literal["google", "twitter", "facebook"]
VERSION = "16.0.0"
_TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
_GENDERS = {"1F466": "1F9D2", "1F467": "1F9D2", "1F468": "1F9D1", "1F469": "1F9D1"}
_SIGNS = {"200D", "2640", "2642", "27A1", "FE0F"}  # woman, man, facing right, and joins


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One vendor's drawing of a name."""

    name: str  # in small letters, and no other emoji of the vendor has it
    vendor: Vendor
    code: str  # of Unicode, in hexadecimal digits
    base: str  # the code without skin tone and gender: those of one base look alike
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    png: bytes

    @property
    def key(self) -> str:
        """What an example is called in its tar."""
        return f"{self.code}-{self.vendor}".lower()


def base_of(code: str) -> str:
    """A code without gender and direction; codes of tables have no skin tone."""
    parts = [_GENDERS.get(part, part) for part in code.split("-")]
    kept = [part for part in parts if part not in _SIGNS]
    return "-".join(kept) or code  # the signs are emoji, too


def package_name(vendor: str) -> str:
    """The package of npm with a vendor's emoji."""
    return f"emoji-datasource-{vendor}"


def find_package(folder: Path, vendor: str) -> Path | None:
    """The tarball of `npm pack`, or the folder, of a vendor's package; `None` if none.

    `folder` has it, or `node_modules` there. Of tarballs that of `VERSION` comes first.
    """
    name = package_name(vendor)
    exact = [folder / f"{name}-{VERSION}.tgz", folder / name]
    installed = folder / "node_modules" / name
    others = sorted(folder.glob(f"{name}-*.tgz"))
    return next((path for path in (*exact, installed, *others) if path.exists()), None)


def read_package(path: Path, vendor: Vendor) -> list[Emoji]:
    """All emoji that a vendor draws, variations of skin tone among them, by code.

    A `ValueError` says in a sentence what is wrong with a package that is another, or
    not whole.
    """
    try:
        files = _package_files(path, f"img/{vendor}/64/")
        about, table = (json.loads(files[f"{n}.json"]) for n in ("package", "emoji"))
        found = f"{about['name']} {about['version']}"
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a package of npm ({error}): fetch it again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no whole package of emoji (`package.json` or `emoji.json` is "
            "missing, or cut): fetch it again."
        ) from error
    expected = f"{package_name(vendor)} {VERSION}"
    require(
        found == expected,
        f"The package must be {expected}; got {found} in {path}: run `npm pack "
        f"{expected.replace(' ', '@')}`.",
    )
    emoji = []
    for name, entry, drawing in _named_drawings(table):
        if not drawing[f"has_img_{vendor}"]:
            continue
        png = files.get(f"img/{vendor}/64/{drawing['image']}")
        require(
            png is not None,
            f"{path} lacks {drawing['image']}: fetch the package again.",
        )
        emoji.append(
            Emoji(
                name, vendor, drawing["unified"], base_of(entry["unified"]),
                entry["category"], entry["subcategory"], tuple(entry["short_names"]),
                png or b"",
            )
        )  # fmt: skip
    twice = [name for name, n in Counter(e.name for e in emoji).items() if n > 1]
    require(
        not twice, f"Names must differ; got {twice} twice in {path}: fetch it again."
    )
    return sorted(emoji, key=lambda one: one.code)


def fetch_package(folder: Path, vendor: str) -> Path:
    """The tarball that npm fetches into `folder`; a `ValueError` says why it cannot."""
    package = f"{package_name(vendor)}@{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            command = ["npm", "pack", package]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            found = [] if done.returncode else [*Path(scratch).glob("*.tgz")]
            lines = done.stderr.splitlines()
            errors = [line for line in lines if "err" in line.lower()]
            reason = errors[0] if errors else f"exit status {done.returncode}"
        except OSError as error:
            found, reason = [], describe_error(error)
        require(
            bool(found),
            f"{package} is not in {folder}, and npm cannot fetch it ({reason}): run "
            f"`npm pack {package}` where there is a network, and give "
            "`--packages FOLDER`.",
        )
        return found[0].rename(folder / found[0].name)


def write_made_up_package(folder: Path, vendor: str, count: int = 24) -> None:
    """Writes a package of discs that is none of npm's, to try all without network.

    One emoji comes in skin tones, and that is one that Facebook does not draw.
    """
    images, table = folder / package_name(vendor) / "img" / vendor / "64", []
    images.mkdir(parents=True)
    for number in range(count):
        names = {"name": f"DISC {number}", "short_name": f"disc_{number}"}
        tones = {"1F3FB": {}, "1F3FC-1F3FF": {}} if number == 0 else {}
        entry = names | {"category": "Discs", "short_names": [names["short_name"]]}
        entry |= {"subcategory": f"disc-{number % 4}", "skin_variations": tones}
        drawings = {"": entry} | {f"-{tone}": tones[tone] for tone in tones}
        for suffix, drawing in drawings.items():
            code = f"{number:04X}{suffix}"
            drawing |= {"unified": code, "image": f"{code.lower()}.png"}
            drawing |= {f"has_img_{vendor}": number > 0 or vendor != "facebook"}
            image = Image.new("RGBA", (64, 64))
            color = (9 * number, 200, 80 * len(vendor) % 256, 255)
            ImageDraw.Draw(image).ellipse((8, 8, 56, 56), color)
            content = io.BytesIO()
            image.save(content, "PNG")
            (images / drawing["image"]).write_bytes(content.getvalue())
        table.append(entry)
    about = {"name": package_name(vendor), "version": VERSION}
    for name, content in (("package", about), ("emoji", table)):
        path = folder / package_name(vendor) / f"{name}.json"
        path.write_text(json.dumps(content))


def _package_files(path: Path, images: str) -> dict[str, bytes]:
    """The tables and images of a package by their paths in it."""
    tables = ("package.json", "emoji.json")
    if path.is_dir():
        found = [*(path / table for table in tables), *path.glob(f"{images}*.png")]
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}
    files = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            is_image = name.startswith(images) and name.endswith(".png")
            if (is_image or name in tables) and (content := tar.extractfile(member)):
                files[name] = content.read()
    return files


def _named_drawings(
    table: list[dict[str, Any]],
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """A name, the entry of the table, and the drawing in it that has the name."""
    spoken = lambda entry: (entry["name"] or "").lower()
    times = Counter(map(spoken, table))
    for entry in table:
        name = spoken(entry)
        if not name or times[name] > 1:
            name = entry["short_name"].replace("_", " ")
        yield name, entry, entry
        for tones, drawing in entry.get("skin_variations", {}).items():
            named = " and ".join(_TONES[tone] for tone in tones.split("-"))
            yield f"{name}, {named} skin", entry, drawing
