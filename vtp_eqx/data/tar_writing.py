"""Writing examples to tars as img2dataset does, and names of classes beside them."""

from collections.abc import Mapping, Sequence
import io
from pathlib import Path
import tarfile

from vtp_eqx.files import write_text


def add_example(tar: tarfile.TarFile, key: str, files: Mapping[str, bytes]) -> None:
    """Adds `KEY.SUFFIX` for each suffix of `files`, without times or owners."""
    for suffix, content in files.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def write_prompts(
    folder: Path, classes: Sequence[str], templates: Sequence[str]
) -> None:
    """Writes `classes.txt` and `templates.txt`, a line each."""
    for name, lines in (("classes", classes), ("templates", templates)):
        write_text(folder / f"{name}.txt", "\n".join(lines) + "\n")
