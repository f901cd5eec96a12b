"""The arrays of a tokenizer by name: to write them, to check them, to identify them."""

from collections.abc import Iterable, Mapping
import hashlib
from typing import Any

import jax
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.models.tokenizer import Tokenizer


STATISTICS = ("latent_mean", "latent_std")


def leaf_path(path: tuple) -> str:
    """A tree path as names joined by dots: `encoder.blocks.attention.to_qkv.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_arrays(model: Any) -> dict[str, Any]:
    """Every array, or shape of a skeleton, by its path: `encoder.norm.weight`, say."""
    return {leaf_path(path): leaf for path, leaf in jax.tree.leaves_with_path(model)}


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """A `ValueError` unless `arrays` has the names and shapes of `expected`."""
    require(
        arrays.keys() == expected.keys(),
        "A checkpoint has exactly the tensors that its config describes; got "
        f"{_list_names(arrays.keys() - expected.keys())} too many and "
        f"{_list_names(expected.keys() - arrays.keys())} missing: check that config "
        "and weights belong together.",
    )
    wrong = [
        f"{name} {tuple(arrays[name].shape)} for {tuple(array.shape)}"
        for name, array in expected.items()
        if arrays[name].shape != array.shape
    ]
    require(
        not wrong,
        "Tensors have the shapes that their config describes; got "
        f"{_list_names(wrong)}: check that config and weights belong together.",
    )


def check_depth(depth: int, arrays: Mapping[str, Any]) -> None:
    """A `ValueError` if `depth` blocks are far more than `arrays` could be of.

    Of so many, the missing tensors would not fit into memory, even as names.
    """
    require(
        depth <= max(len(arrays), 1000),
        "A checkpoint has tensors for every block that its config describes; got "
        f"{len(arrays)} tensors for {depth} blocks: check that config and weights "
        "belong together.",
    )


def weights_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the weights; statistics are not weights."""
    arrays = named_arrays(tokenizer)
    return arrays_hash(
        {name: arrays[name] for name in arrays if name not in STATISTICS}
    )


def latents_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the statistics of the latents.

    A generator learns normalized latents, so it only fits a tokenizer with this hash.
    """
    arrays = named_arrays(tokenizer)
    return arrays_hash({name: arrays[name] for name in STATISTICS})


def arrays_hash(arrays: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name arrays by names and content."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _list_names(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = [f"and {len(ordered) - limit} more"] if len(ordered) > limit else []
    return f"[{', '.join([*ordered[:limit], *more])}]"
