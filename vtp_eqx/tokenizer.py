"""The face of the library: a tokenizer, from disk and to disk.

    tokenizer = load("runs/scenes/tokenizer")
    latents = jax.vmap(tokenizer.encode)(images)

A saved tokenizer is a folder of two files: `config.json` (its shape and the hashes of
its arrays) and `tokenizer.safetensors` (its arrays by path). `load` reads released
PyTorch checkpoints as well, and `save_published` writes them.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.config import require, tokenizer_from_dict
from vtp_eqx.hub import download, is_hub_name
from vtp_eqx.interop import tokenizer_from_published, tokenizer_to_published
from vtp_eqx.models.arrays import (
    check_arrays,
    latents_hash as latents_hash,
    named_arrays,
    weights_hash as weights_hash,
)
from vtp_eqx.models.tokenizer import Tokenizer as Tokenizer
from vtp_eqx.tensor_files import (
    as_float32,
    CONFIG_FILE,
    PUBLISHED_INDEX,
    PUBLISHED_WEIGHTS,
    published_weights,
    read_object,
    read_tensors,
    write_model,
)
from vtp_eqx.training.folder import is_run


FORMAT = "vtp_eqx tokenizer 1"
WEIGHTS_FILE = "tokenizer.safetensors"
RUN_FOLDER = "tokenizer"  # where a run keeps what it saves
_WEIGHTS = (WEIGHTS_FILE, PUBLISHED_WEIGHTS, PUBLISHED_INDEX)


def save(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer, statistics of its latents included, to a folder.

    Each file appears whole or not at all, so that a save that was killed leaves what
    was there before; in the instant between the two files `load` tells them apart.
    A run's own folder is a `ValueError`: its `config.json` is another.
    """
    _check_not_run(folder)
    require(
        tokenizer.precision == "float32",
        "A tokenizer is saved as it was trained, in float32; got one of "
        f"{tokenizer.precision}: save it before its weights are rounded.",
    )
    description = {
        "format": FORMAT,
        "config": dataclasses.asdict(tokenizer.config),
        "weights_hash": weights_hash(tokenizer),
        "latents_hash": latents_hash(tokenizer),
    }
    if tokenizer.origin:
        description["origin"] = tokenizer.origin
    arrays = {name: np.asarray(a) for name, a in named_arrays(tokenizer).items()}
    write_model(Path(folder), WEIGHTS_FILE, arrays, description)


def load(where: Path | str) -> Tokenizer:
    """The tokenizer in a folder or file, or on the Hugging Face hub.

    `where` is a folder of `save`, equal to the last bit; a run's folder, which has one
    inside; a folder or file in the published layout; or a name on the hub, such as
    "MiniMaxAI/VTP-Large-f16d64", for which the extra `hub` must be installed.

    A file that is missing is a `FileNotFoundError`. A file that is cut short or broken,
    a tensor too many, too few, of another shape or no floats, a setting that this
    library does not have, and two files of different saves are a `ValueError`.
    """
    path = Path(where)
    if isinstance(where, str) and not path.exists() and is_hub_name(where):
        path = download(where)
    inside = path / RUN_FOLDER
    if inside.is_dir() and not any((path / name).exists() for name in _WEIGHTS):
        path = inside
    folder = path.parent if path.is_file() else path
    description = read_object(folder / CONFIG_FILE)
    if "format" in description:
        weights = path if path.is_file() else folder / WEIGHTS_FILE
        return _saved(description, read_tensors(weights), folder)
    weights = path if path.is_file() else published_weights(folder)
    return tokenizer_from_published(read_tensors(weights), description)


def save_published(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer as a released checkpoint, for the published PyTorch code."""
    _check_not_run(folder)
    tensors, config = tokenizer_to_published(tokenizer)
    write_model(Path(folder), PUBLISHED_WEIGHTS, tensors, config)


def _check_not_run(folder: Path | str) -> None:
    require(
        not is_run(Path(folder)),
        f"`folder` ({folder}) is that of a run, whose {CONFIG_FILE} a saved tokenizer "
        f"would replace: save it inside, such as to {Path(folder) / RUN_FOLDER}.",
    )


def _saved(
    description: dict[str, Any], tensors: dict[str, Any], folder: Path
) -> Tokenizer:
    require(
        description["format"] == FORMAT,
        f"`load` reads the format {FORMAT!r}; got {description['format']!r} in "
        f"{folder}: use the version that saved it.",
    )
    missing = sorted({"config", "weights_hash", "latents_hash"} - description.keys())
    require(
        not missing,
        f"{CONFIG_FILE} of a saved tokenizer has a config and two hashes; {missing} "
        f"are missing in {folder}: save the tokenizer again.",
    )
    skeleton = _skeleton(description, folder)
    names = named_arrays(skeleton)
    check_arrays(tensors, names)
    tokenizer = jax.tree.unflatten(
        jax.tree.structure(skeleton),
        [jnp.asarray(as_float32(tensors[name], name)) for name in names],
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


def _skeleton(description: dict[str, Any], folder: Path) -> Tokenizer:
    origin = description.get("origin", "")
    try:
        config = tokenizer_from_dict(description["config"])
        return eqx.filter_eval_shape(Tokenizer, config, origin=origin, key=jr.key(0))
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{CONFIG_FILE} of {folder} has values of the types of a "
            "`TokenizerConfig`; got others: load it with the version that saved it."
        ) from error
