"""Class names and prompt templates: read from files, and checked against labels.

Zero-shot classes of an evaluation and of a training come from here, so that a file that
one takes the other takes too, and a mistake is found before the first image.
"""

import codecs
from collections.abc import Sequence
import json
from pathlib import Path

from jaxtyping import Int
import numpy as np

from vtp_eqx.config import require


def read_class_names(path: str | Path) -> list[str]:
    """The names of classes, one a line, in the order of labels.

    A `ValueError` or `OSError` where the file is no such list.
    """
    return _read_lines(path, "classes")


def read_templates(path: str | Path) -> list[str]:
    """Prompts, one a line, each with one `{}` for the name of a class.

    A `ValueError` or `OSError` where the file is no such list.
    """
    lines = _read_lines(path, "templates")
    _check_templates(lines, f"in {path}")
    return lines


def read_prompts(path: str | Path) -> list[str]:
    """Texts to generate for, one a line.

    A `ValueError` or `OSError` where the file is no such list.
    """
    return _read_lines(path, "prompts_file")


def fill_templates(
    class_names: Sequence[str], templates: Sequence[str]
) -> list[list[str]]:
    """The prompts of every class: its name in each template, in the place of `{}`.

    A `ValueError` where there are none, or a template has no place for a name.
    """
    require(
        len(class_names) > 0 and len(templates) > 0,
        f"Prompts are class names in templates with `{{}}`; got {len(class_names)} "
        f"names and {len(templates)} templates: give both.",
    )
    _check_templates(templates, "")
    return [
        [template.replace("{}", name) for template in templates] for name in class_names
    ]


def check_class_names(
    class_names: Sequence[str],
    labels: Int[np.ndarray, " some"],
    folders: Sequence[str] = (),
) -> None:
    """A `ValueError` where names cannot be those of the labels, in their order.

    - `labels`: those that were seen so far.
    - `folders`: the names of class folders in the order of labels, where there are any.
    """
    largest = int(labels.max(initial=-1))
    for is_possible, seen in (
        (len(folders) in (0, len(class_names)), f"{len(folders)} class folders"),
        (largest < len(class_names), f"the label {largest}"),
    ):
        require(
            is_possible,
            f"Every class has one name, in the order of labels; got {len(class_names)} "
            f"names and {seen}: use the list that belongs to these images.",
        )
    plain = lambda names: [name.casefold().replace("_", " ") for name in names]
    of_folders, of_file = plain(folders), plain(class_names)
    wrong = [
        label
        for label, pair in enumerate(zip(of_folders, of_file, strict=False))
        if pair[0] != pair[1]
    ]
    if wrong and sorted(of_folders) == sorted(of_file):
        raise ValueError(
            "Class names are in the order of labels, which is that of the class "
            f"folders; got the same names in another order, such as "
            f"{class_names[wrong[0]]!r} for the folder {folders[wrong[0]]!r}: sort the "
            "list as the folders are."
        )


def describe_classes(class_names: Sequence[str], folders: Sequence[str] = ()) -> str:
    """First and last name with their labels and class folders, and names that repeat.

    For people, who see at once whether a list is in another order than its images.
    """
    last = len(class_names) - 1
    ends = [
        f"{label} is {class_names[label]!r}"
        + (f" (folder {folders[label]!r})" if folders else "")
        for label in (0, last)
    ]
    text = f"{len(class_names)} classes: label {ends[0]}, {ends[1]}."
    first = {name: label for label, name in reversed([*enumerate(class_names)])}
    again = [(label, n) for label, n in enumerate(class_names) if first[n] != label]
    if again:
        label, name = again[0]
        text += (
            f" {len(again)} names repeat earlier ones, such as {name!r} (labels "
            f"{first[name]} and {label}): images of those classes count as wrong."
        )
    return text


def _read_lines(path: str | Path, option: str) -> list[str]:
    """The lines of a text file that have words, without the space around them."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`{option}` ({path}) must be a text file with a line each; found none "
            "there: check the path."
        )
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"`{option}` ({path}) must be text in UTF-8; line {line} is not: save it "
            "as UTF-8."
        ) from error
    require(
        not _is_json(text) and "\0" not in text,
        f"`{option}` ({path}) must be text with a line each; got "
        f"{'JSON' if _is_json(text) else 'binary content'}: write a line each.",
    )
    # Not `splitlines`, which also splits at characters that a name may have.
    lines = text.replace("\ufeff", "").replace("\r", "\n").split("\n")
    found = [line.strip() for line in lines if line.strip()]
    require(
        bool(found), f"`{option}` ({path}) must have a line each; it is empty: fill it."
    )
    return found


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False


def _check_templates(templates: Sequence[str], where: str) -> None:
    wrong = [
        template
        for template in templates
        if not template.count("{") == template.count("}") == template.count("{}") == 1
    ]
    require(
        not wrong,
        "Prompts are class names in templates with `{}` once and no other braces; got "
        f"{wrong[:1]} {where}".rstrip()
        + ": write {} where the name goes.",
    )
