"""The face of the library: a tokenizer, from disk and to disk.

    tokenizer = load("runs/scenes/tokenizer")
    latents = jax.vmap(tokenizer.encode)(images)

A saved tokenizer is a folder of two files: `config.json` (its shape and the hashes of
its arrays) and `tokenizer.safetensors` (its arrays by path). `load` reads the newest
checkpoint of a run, released PyTorch checkpoints and folders of a diffusers autoencoder
as well; `save_published` and `save_diffusers` write the last two.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np

from vtp_eqx.config import first_sentence, from_dict, require, TokenizerConfig
from vtp_eqx.interop import diffusers
from vtp_eqx.interop.hub import download, is_hub_name
from vtp_eqx.interop.vtp import tokenizer_from_published, tokenizer_to_published
from vtp_eqx.models.arrays import (
    latents_hash as latents_hash,
    named_arrays,
    statistics_hash,
    weights_hash as weights_hash,
    with_arrays,
)
from vtp_eqx.models.input_checks import check_unrounded
from vtp_eqx.models.tokenizer import Tokenizer as Tokenizer
from vtp_eqx.runs.checkpoint import read_newest
from vtp_eqx.runs.run_dir import CHECKPOINTS, is_run, read_config
from vtp_eqx.tensor_files import (
    as_float32,
    check_arrays,
    CONFIG_FILE,
    PUBLISHED_INDEX,
    PUBLISHED_WEIGHTS,
    published_weights,
    read_object,
    read_tensors,
    write_model,
)


FORMAT = "vtp_eqx tokenizer 2"
FIRST_FORMAT = "vtp_eqx tokenizer 1"  # its `latents_hash` is of the statistics alone
WEIGHTS_FILE = "tokenizer.safetensors"
RUN_FOLDER = "tokenizer"  # where a run keeps what it saves
_IN_STATE = "student.tokenizer"  # its path in the state of a pre-training
_WEIGHTS = (
    WEIGHTS_FILE, PUBLISHED_WEIGHTS, PUBLISHED_INDEX, diffusers.DIFFUSERS_WEIGHTS
)  # fmt: skip


def save(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer, statistics of its latents included, to a folder.

    Each file appears whole or not at all, so that a save that was killed leaves what
    was there before; in the instant between the two files `load` tells them apart.
    A run's own folder is a `ValueError`: its `config.json` is another.
    """
    _check_not_run(folder)
    check_unrounded(tokenizer.precision)
    description = {
        "format": FORMAT,
        "config": dataclasses.asdict(tokenizer.config),
        "weights_hash": weights_hash(tokenizer),
        "latents_hash": _known_latents_hash(tokenizer),
    }
    if tokenizer.origin:
        description["origin"] = tokenizer.origin
    arrays = {name: np.asarray(a) for name, a in named_arrays(tokenizer).items()}
    write_model(Path(folder), WEIGHTS_FILE, arrays, description)


def load(where: Path | str) -> Tokenizer:
    """The tokenizer in a folder or file, or on the Hugging Face hub.

    `where` is a folder of `save`, equal to the last bit; the folder of a pre-training,
    at any time; a folder or file in the published layout or of `save_diffusers`; or a
    name on the hub, such as "MiniMaxAI/VTP-Large-f16d64", for which the extra `hub` has
    to be installed.

    Of a run that has ended it is the tokenizer saved inside. Before, it is that of the
    newest checkpoint, whose latent statistics are not measured.

    A file that is missing is a `FileNotFoundError`, and so is a run's first checkpoint.
    A file that is cut short or broken, a tensor too many, too few, of another shape or
    no floats, a setting that this library does not have, and two files of different
    saves are a `ValueError`.
    """
    path = Path(where)
    if isinstance(where, str) and not path.exists() and is_hub_name(where):
        path = download(where)
    if not any((path / name).exists() for name in _WEIGHTS):
        if (path / RUN_FOLDER / CONFIG_FILE).exists():  # the last file of a save
            path = path / RUN_FOLDER
        elif is_run(path) or (path / CHECKPOINTS).is_dir():
            return _from_run(path)
    folder = path.parent if path.is_file() else path
    description = read_object(folder / CONFIG_FILE)
    if "format" in description:
        weights = path if path.is_file() else folder / WEIGHTS_FILE
        return _saved(description, read_tensors(weights), folder)
    if diffusers.describes_diffusers(description):
        return diffusers.tokenizer_from_diffusers(*diffusers.read_diffusers(path))
    weights = path if path.is_file() else published_weights(folder)
    return tokenizer_from_published(read_tensors(weights), description)


def is_ours(path: Path) -> bool:
    """Whether a run or a tokenizer of `save` is there, and no published checkpoint."""
    config = (path.parent if path.is_file() else path) / CONFIG_FILE
    holds_run = (path / RUN_FOLDER).is_dir() or is_run(path)
    return holds_run or (config.is_file() and "format" in read_object(config))


def save_published(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer as a released checkpoint, for the published PyTorch code."""
    _check_not_run(folder)
    tensors, config = tokenizer_to_published(tokenizer)
    write_model(Path(folder), PUBLISHED_WEIGHTS, tensors, config)


def save_diffusers(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes a tokenizer as a diffusers autoencoder, and the PyTorch file to use it.

    The folder has `config.json` with `latents_mean` and `latents_std`,
    `diffusion_pytorch_model.safetensors` and `autoencoder_vtp.py`, which needs PyTorch
    and safetensors alone. Everything comes back by `load`, to the last bit. A tokenizer
    without measured statistics is a `ValueError`.
    """
    _check_not_run(folder)
    diffusers.save_diffusers(tokenizer, Path(folder))


def _check_not_run(folder: Path | str) -> None:
    require(
        not is_run(Path(folder)),
        f"`folder` ({folder}) is that of a run, whose {CONFIG_FILE} a saved tokenizer "
        f"would replace: save it inside, such as to {Path(folder) / RUN_FOLDER}.",
    )


def _from_run(folder: Path) -> Tokenizer:
    """That of the newest checkpoint of a pre-training."""
    config = read_config(folder).get("config")
    if config is None:
        raise FileNotFoundError(
            f"`where` ({folder}) must be a run with a {CONFIG_FILE}, but it is of a "
            "version that wrote none: call what trained it once more, which does."
        )
    require(
        "tokenizer" in config,
        f"`where` ({folder}) must be the run of a pre-training, or have ended with a "
        "tokenizer, but it trains something else: name another folder.",
    )
    skeleton = _skeleton({"config": config["tokenizer"]}, folder)
    names = {f"{_IN_STATE}.{name}": a for name, a in named_arrays(skeleton).items()}
    arrays = read_newest(folder / CHECKPOINTS, names)
    check_arrays(arrays, names)
    own = {name.removeprefix(f"{_IN_STATE}."): a for name, a in arrays.items()}
    return with_arrays(skeleton, own)


def _saved(
    description: dict[str, Any], tensors: dict[str, Any], folder: Path
) -> Tokenizer:
    require(
        description["format"] in (FORMAT, FIRST_FORMAT),
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
    check_arrays(tensors, named_arrays(skeleton))
    arrays = {name: as_float32(tensor, name) for name, tensor in tensors.items()}
    tokenizer = with_arrays(skeleton, arrays)
    is_first = description["format"] == FIRST_FORMAT
    hash_of = statistics_hash if is_first else _known_latents_hash
    for name, digest in (
        ("weights_hash", weights_hash(tokenizer)),
        ("latents_hash", hash_of(tokenizer)),
    ):
        require(
            description[name] == digest,
            f"The files of {folder} are of one save; got the `{name}` "
            f"{description[name]} in {CONFIG_FILE} and {digest} in {WEIGHTS_FILE}: "
            "save the tokenizer again.",
        )
    return tokenizer


def _known_latents_hash(tokenizer: Tokenizer) -> str:
    """Its `latents_hash`, or "" where the statistics were never measured."""
    return latents_hash(tokenizer) if tokenizer.is_measured else ""


def _skeleton(description: dict[str, Any], folder: Path) -> Tokenizer:
    origin = description.get("origin", "")
    try:
        config = from_dict(TokenizerConfig, description["config"])
        return eqx.filter_eval_shape(Tokenizer, config, origin=origin, key=jr.key(0))
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{CONFIG_FILE} of {folder} has values of the types of a "
            f"`TokenizerConfig`; got others ({first_sentence(error)}): load it with "
            "the version that saved it."
        ) from error
