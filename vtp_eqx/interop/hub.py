"""Checkpoints from the Hugging Face hub, or an immediate error that says why not."""

from pathlib import Path
import re


PATIENCE = 5.0  # seconds


def is_hub_name(text: str) -> bool:
    """Whether `text` could name a repository: an owner, a slash and a name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def download(name: str) -> Path:
    """The folder of a repository's `config.json` and safetensors files.

    The hub is asked once, because its own downloader takes half a minute to see that
    there is no network; then what an earlier download left is used. A
    `FileNotFoundError` says why there is nothing.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ModuleNotFoundError(
            f"A hub name needs `huggingface_hub`; got {name!r}, which is no folder or "
            "file here: install `vtp_eqx[hub]`, or give the checkpoint's folder."
        ) from error
    files = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    try:
        HfApi().model_info(name, timeout=PATIENCE)
        return Path(snapshot_download(name, allow_patterns=files))
    except Exception as refused:  # of the hub's HTTP library, another in each version
        try:
            found = snapshot_download(name, allow_patterns=files, local_files_only=True)
        except Exception:
            reason = type(refused).__name__
            raise FileNotFoundError(
                f"A model is in a folder or file here, or on the hub; got {name!r}, "
                f"which is not here, and the hub gave nothing ({reason}): copy its "
                "config.json and safetensors files from a machine with network, and "
                "give their folder."
            ) from refused
    return Path(found)
