"""Tokenizers in the folder of a diffusers autoencoder, from disk and to disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtp_eqx.files import atomic_path
from vtp_eqx.interop.diffusers.checkpoint import tokenizer_to_diffusers
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.tensor_files import CONFIG_FILE, read_object, read_tensors, write_model
from vtp_eqx.tensor_files.name_table import Tensors


DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
MODULE = Path(__file__).with_name("autoencoder_vtp.py")


def is_diffusers(where: Path) -> bool:
    """Whether a folder, or that of a file, has the config of a diffusers model."""
    config = _folder(where) / CONFIG_FILE
    return config.is_file() and describes_diffusers(read_object(config))


def describes_diffusers(settings: Mapping[str, Any]) -> bool:
    """Whether settings are those of a diffusers model."""
    return "_class_name" in settings


def read_diffusers(where: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and settings of a folder, or of a file with its config beside it."""
    weights = where if where.is_file() else where / DIFFUSERS_WEIGHTS
    return read_tensors(weights), read_object(_folder(where) / CONFIG_FILE)


def save_diffusers(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights and config, and the file that computes with them in PyTorch."""
    tensors, settings = tokenizer_to_diffusers(tokenizer)
    with atomic_path(folder / MODULE.name) as unfinished:
        unfinished.write_bytes(MODULE.read_bytes())
    write_model(folder, DIFFUSERS_WEIGHTS, tensors, settings)


def _folder(where: Path) -> Path:
    return where.parent if where.is_file() else where
