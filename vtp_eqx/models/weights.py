"""The float arrays of any model as one safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax

from vtp_eqx.models.arrays import named_arrays, with_arrays
from vtp_eqx.tensor_files import (
    check_arrays,
    read_notes as read_notes,
    read_tensors,
    write_tensors,
)


Model = TypeVar("Model", bound=eqx.Module)


def save_weights(
    model: eqx.Module, path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Writes the arrays of `model` by their paths in it; whole or not at all.

    `notes` go into the file's header, for `read_notes`.
    """
    arrays = named_arrays(eqx.filter(model, eqx.is_array))
    write_tensors(path, jax.device_get(arrays), dict(notes or {}))


def load_weights(skeleton: Model, path: Path) -> Model:
    """`skeleton` (from `eqx.filter_eval_shape`, say) with the arrays in `path`.

    A missing file is a `FileNotFoundError`. A file that is cut short, and a tensor too
    many, too few or of another shape, are a `ValueError`.
    """
    tensors = read_tensors(path)
    is_array = lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    arrays, rest = eqx.partition(skeleton, is_array)
    check_arrays(tensors, named_arrays(arrays))
    return eqx.combine(with_arrays(arrays, tensors), rest)
