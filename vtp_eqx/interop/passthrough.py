"""Settings of a published checkpoint that our config lacks: kept, and written back.

A released `config.json` has settings of the hub, left-out defaults and nulls; released
weights have constants, computed by another library, that our formulas miss by their
last bits. A model carries both as one text, its `origin`, which is empty for a model
that was made here.
"""

import base64
from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any
import zlib

from jaxtyping import Shaped
import ml_dtypes  # noqa: F401 - teaches NumPy the name "bfloat16"
import numpy as np

from vtp_eqx.config import require


Constants = Mapping[str, Shaped[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True)
class Origin:
    """A published config, and the published constants that differ from ours."""

    settings: dict[str, Any]
    constants: dict[str, Shaped[np.ndarray, "..."]]

    def restored(
        self, settings: dict[str, Any], constants: Constants, *, is_unchanged: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What to write in place of our `settings` and `constants` of a model.

        What was read, where the model's config `is_unchanged`; else ours, beside
        settings that are not of the model.
        """
        if not is_unchanged:
            return {**self.settings, **settings}, dict(constants)
        return self.settings or settings, {**constants, **self.constants}


def origin_of(
    settings: Mapping[str, Any],
    our_settings: Mapping[str, Any],
    constants: Constants,
    our_constants: Constants,
) -> str:
    """The origin of a checkpoint: what ours would not write back as it was.

    Empty where there is nothing to keep.
    """
    pack = lambda a: base64.b64encode(zlib.compress(a.tobytes())).decode()
    packed = {
        name: [str(a.dtype), list(a.shape), pack(a)]
        for name, ours in our_constants.items()
        # A checkpoint in half precision is written back in float32, formulas included.
        for a in [constants[name]]
        if a.dtype == ours.dtype and a.tobytes() != ours.tobytes()
    }
    other = {} if dict(settings) == dict(our_settings) else dict(settings)
    if not other and not packed:
        return ""
    return json.dumps({"settings": other, "constants": packed})


def read_origin(text: str) -> Origin:
    """The origin that `origin_of` wrote; a `ValueError` if it was not."""
    if not text:
        return Origin({}, {})
    try:
        fields = json.loads(text)
        constants = {
            name: _unpacked(data, np.dtype(kind), shape)
            for name, (kind, shape, data) in fields["constants"].items()
        }
        settings = fields["settings"]
        require(isinstance(settings, dict), "settings are an object")
    except (
        ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
        RecursionError, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(
            f"The origin of a model is the text it was read with; got {text[:60]!r} "
            f"({type(error).__name__}): load the published checkpoint again."
        ) from error
    return Origin(settings, constants)


def _unpacked(data: str, kind: np.dtype, shape: list[int]) -> np.ndarray:
    """An array of that shape, and no byte more however many are packed."""
    size = math.prod(shape) * kind.itemsize
    content = zlib.decompressobj().decompress(base64.b64decode(data), size + 1)
    return np.frombuffer(content, kind).reshape(shape)
