"""LightningDiT checkpoints from disk and to disk."""

from pathlib import Path
from typing import Any, Literal

from vtp_eqx.config import require
from vtp_eqx.interop.lightningdit.checkpoint import dit_to_published
from vtp_eqx.interop.lightningdit.settings import config_from_training, LATENTS_HASH
from vtp_eqx.models.dit import DiT
from vtp_eqx.tensor_files import (
    CONFIG_FILE,
    PUBLISHED_WEIGHTS,
    published_weights,
    read_object,
    read_tensors,
    require_file,
    StoredTensor,
    TorchFile,
    write_config,
    write_model,
    write_torch_file,
)
from vtp_eqx.tensor_files.name_table import Tensors


Part = Literal["ema", "model"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
# What wrappers for several devices and for compilation put before every name.
_WRAPPERS = ("module.", "_orig_mod.")


def read_published(path: Path, part: Part = "ema") -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the settings of a checkpoint, whatever they describe.

    `path` is a folder of `config.json` and `model.safetensors`, or one file of
    safetensors or of `torch.save`, with `config.json` beside it; what LightningDiT's
    own training saved needs none. Where a file holds the running average and the model
    as trained, `part` picks one. Nothing in a file is executed.

    A `FileNotFoundError` names a file that is missing, a `ValueError` the file, tensor,
    byte or setting that is wrong.
    """
    folder = path.parent if path.is_file() else path
    if path.suffix in TORCH_SUFFIXES:
        require_file(path)
        tensors, config = _read_torch(path, part)
    else:
        weights = path if path.is_file() else published_weights(folder)
        tensors, config = read_tensors(weights), None
    if config is None:
        config = read_object(folder / CONFIG_FILE)
    for wrapper in _WRAPPERS:
        tensors = {name.removeprefix(wrapper): t for name, t in tensors.items()}
    return tensors, config


def save_published_dit(dit: DiT, path: Path, latents_hash: str = "") -> None:
    """Writes a model by published names, with `config.json`.

    `path` is a folder, for `model.safetensors`, or a file that ends in `.pt`, for what
    LightningDiT's training saves and its code loads: the same weights as running
    average and as model. The config, beside that file, keeps `latents_hash`.
    """
    tensors, config = dit_to_published(dit)
    if latents_hash:
        config = {**config, LATENTS_HASH: latents_hash}
    if path.suffix not in TORCH_SUFFIXES:
        write_model(path, PUBLISHED_WEIGHTS, tensors, config)
        return
    write_torch_file(path, {"model": tensors, "ema": tensors})
    write_config(path.parent, config)


def _read_torch(path: Path, part: Part) -> tuple[Tensors, dict[str, Any] | None]:
    """The tensors of one part of a file of `torch.save`, and the config it may hold."""
    with TorchFile(path) as file:
        content = file.content
        require(
            isinstance(content, dict),
            f"A checkpoint is a dict of tensors; got a {type(content).__name__} in "
            f"{path}: this is another file.",
        )
        stored = content
        if not any(isinstance(value, StoredTensor) for value in content.values()):
            require(
                isinstance(content.get(part), dict),
                f"A training's checkpoint has the part `{part}`; got the parts "
                f"{sorted(map(str, content))[:5]} in {path}: ask for another.",
            )
            stored = content[part]
        odd = [
            n for n, tensor in stored.items() if not isinstance(tensor, StoredTensor)
        ]
        require(
            not odd and all(isinstance(name, str) for name in stored),
            f"A state dict has a tensor for each name; got something else for "
            f"{odd[:5]} in {path}: save the state dict alone.",
        )
        training = content.get("config")
        beside = (path.parent / CONFIG_FILE).is_file()
        config = config_from_training(training) if training and not beside else None
        tensors = {name: file.read(tensor, name) for name, tensor in stored.items()}
        return tensors, config
