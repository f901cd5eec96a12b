"""The face of the library: a tokenizer, from disk and to disk.

    tokenizer = load("runs/scenes/tokenizer")
    latents = jax.vmap(tokenizer.encode)(images)

A saved tokenizer is a folder of two files: `config.json` (its shape and the hashes of
its arrays) and `tokenizer.safetensors` (its arrays by path). `load_published` and
`save_published` read and write the layout of the released PyTorch checkpoints.
"""

from collections.abc import Mapping
import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vtp_eqx.config import require, tokenizer_from_dict, TokenizerConfig
from vtp_eqx.files import replacing
from vtp_eqx.interop import tokenizer_from_published, tokenizer_to_published
from vtp_eqx.models.arrays import (
    check_arrays,
    latents_hash as latents_hash,
    named_arrays,
    weights_hash as weights_hash,
)
from vtp_eqx.models.tokenizer import Tokenizer as Tokenizer


FORMAT = "vtp_eqx tokenizer 1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "tokenizer.safetensors"
PUBLISHED_WEIGHTS_FILE = "model.safetensors"


def save(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer, statistics of its latents included, to a folder.

    Each file appears whole or not at all, so that a save that was killed leaves what
    was there before; in the instant between the two files `load` tells them apart.
    """
    description = {
        "format": FORMAT,
        "config": dataclasses.asdict(tokenizer.config),
        "weights_hash": weights_hash(tokenizer),
        "latents_hash": latents_hash(tokenizer),
    }
    arrays = {name: np.asarray(a) for name, a in named_arrays(tokenizer).items()}
    _write(Path(folder), WEIGHTS_FILE, arrays, description)


def load(folder: Path | str) -> Tokenizer:
    """The tokenizer that `save` wrote to a folder, equal to the last bit.

    A file that is missing is a `FileNotFoundError`. A file that is cut short, a tensor
    too many, too few or of another shape, and two files of different saves are a
    `ValueError`.
    """
    description, tensors = _read(Path(folder), WEIGHTS_FILE)
    require(
        description.get("format") == FORMAT,
        f"`load` reads the format {FORMAT!r}; got {description.get('format')!r} in "
        f"{folder}: use `load_published` for a released checkpoint.",
    )
    config = _config(description["config"], Path(folder))
    skeleton = eqx.filter_eval_shape(Tokenizer, config, key=jr.key(0))
    names = named_arrays(skeleton)
    check_arrays(tensors, names)
    tokenizer = jax.tree.unflatten(
        jax.tree.structure(skeleton), [jnp.asarray(tensors[name]) for name in names]
    )
    for name, digest in (
        ("weights_hash", weights_hash(tokenizer)),
        ("latents_hash", latents_hash(tokenizer)),
    ):
        require(
            description[name] == digest,
            f"The files of {folder} are of one save; got the `{name}` "
            f"{description[name]} in {CONFIG_FILE} and {digest} in {WEIGHTS_FILE}: "
            "save the tokenizer again.",
        )
    return tokenizer


def load_published(folder: Path | str) -> Tokenizer:
    """The tokenizer of a released checkpoint: `config.json`, `model.safetensors`."""
    config, tensors = _read(Path(folder), PUBLISHED_WEIGHTS_FILE)
    return tokenizer_from_published(tensors, config)


def save_published(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer as a released checkpoint, for the published PyTorch code."""
    tensors, config = tokenizer_to_published(tokenizer)
    _write(Path(folder), PUBLISHED_WEIGHTS_FILE, tensors, config)


def _config(fields: dict[str, Any], folder: Path) -> TokenizerConfig:
    try:
        return tokenizer_from_dict(fields)
    except TypeError as error:
        raise ValueError(
            f"{CONFIG_FILE} of {folder} has values of the types of a "
            "`TokenizerConfig`; got others: load it with the version that saved it."
        ) from error


def _read(
    folder: Path, weights_file: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    for name in (CONFIG_FILE, weights_file):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"A saved tokenizer has the files {CONFIG_FILE} and {weights_file}; "
                f"got no {name} in {folder}: check the path."
            )
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        return description, load_file(folder / weights_file)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(
            f"The files of a saved tokenizer are whole; got a damaged one in {folder} "
            f"({error}): copy or save it again."
        ) from error


def _write(
    folder: Path,
    weights_file: str,
    tensors: Mapping[str, np.ndarray],
    description: dict[str, Any],
) -> None:
    # Contiguous, because safetensors writes the buffer of a view as it lies.
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with (
        replacing(folder / CONFIG_FILE) as config,
        replacing(folder / weights_file) as weights,
    ):
        save_file(whole, weights, {"format": "pt"})
        config.write_text(json.dumps(description, indent=1, sort_keys=True))
