"""Captions and labels from the texts beside an image, in a tar or in a folder.

What is not UTF-8 is replaced by U+FFFD, and what is longer than `MAX_CAPTION`
characters is cut; `repair` says so. An empty caption is given as it is, a missing one
is not there: whether that example is of use is up to the reader.
"""

from collections.abc import Mapping
import json
from typing import Any

from vtp_eqx.config import require
from vtp_eqx.data.labels import LABEL_LIMIT


MAX_CAPTION = 4096  # characters; ours: a context of 77 tokens never reads so far
TEXT_PARTS = {"txt": "text", "json": "json", "cls": "class"}  # by suffix
MAX_TEXT_BYTES = {"text": 4 * MAX_CAPTION, "json": 2**24, "class": 64}


def read_texts(contents: Mapping[str, bytes]) -> dict[str, Any]:
    """`caption` and `label` where there are any, and the `repair` of them, "" for none.

    `contents` has, by part, the caption (`text`), a record with `caption` and `label`
    (`json`), and a label (`class`).
    """
    found: dict[str, Any] = {"repair": ""}
    fields = {}
    if "json" in contents:
        try:
            fields = json.loads(contents["json"])
            require(isinstance(fields, dict), "not a record")
        except (ValueError, RecursionError):
            fields, found["repair"] = {}, "the JSON cannot be read"
    caption = contents.get("text")
    if caption is None and isinstance(fields.get("caption"), str):
        # Halves of characters that JSON can hold are found below, as bytes.
        caption = fields["caption"].encode("utf-8", "surrogatepass")
    if caption is not None:
        found["caption"], repair = clean_caption(caption)
        found["repair"] = repair or found["repair"]
    label = fields.get("label")
    if "class" in contents:
        text = contents["class"].strip()
        label = int(text) if text.isdigit() else None
    if type(label) is int and 0 <= label < LABEL_LIMIT:
        found["label"] = label
    return found


def clean_caption(content: bytes) -> tuple[str, str]:
    """The text that bytes say, and what had to be done to it ("" for nothing)."""
    limit = MAX_TEXT_BYTES["text"]
    text = content[:limit].decode("utf-8", "replace")[:MAX_CAPTION]
    kept = text.encode()
    if not content.startswith(kept):
        return text.strip(), "the caption is not UTF-8; what is not was replaced"
    if len(kept) < len(content) or len(kept) == limit:
        return text.strip(), f"the caption was cut at {MAX_CAPTION} characters"
    return text.strip(), ""
