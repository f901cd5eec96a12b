"""Names for arrays by their content, so that two files can say what they belong to."""

import hashlib

import equinox as eqx
import jax
import numpy as np

from .tokenizer import Tokenizer


_STATISTICS = ("latent_mean", "latent_std")


def named_arrays(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """Every array of a tokenizer by its path, say `encoder.norm.weight`."""
    leaves = jax.tree.leaves_with_path(eqx.filter(tokenizer, eqx.is_array))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def weights_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the weights; statistics are not weights."""
    arrays = named_arrays(tokenizer)
    return _hash({name: arrays[name] for name in arrays if name not in _STATISTICS})


def latents_hash(tokenizer: Tokenizer) -> str:
    """Sixteen hexadecimal digits that name the statistics of the latents.

    A generator learns normalized latents, so it only fits a tokenizer with this hash.
    """
    arrays = named_arrays(tokenizer)
    return _hash({name: arrays[name] for name in _STATISTICS})


def _hash(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
