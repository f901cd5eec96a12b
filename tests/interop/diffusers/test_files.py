"""The folder of a diffusers autoencoder, by the face of the library."""

import json
import os

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.interop.diffusers.variants import random_tokenizer
from vtp_eqx.interop.diffusers.checkpoint import MODULE
from vtp_eqx.tokenizer import latents_hash, load, save_diffusers


@pytest.fixture(scope="module")
def tokenizer():
    return random_tokenizer("mixed")


@pytest.fixture
def folder(tokenizer, tmp_path):
    save_diffusers(tokenizer, tmp_path)
    return tmp_path


def test_the_folder_has_weights_config_and_the_pytorch_file(tokenizer, folder):
    files = ["autoencoder_vtp.py", "config.json", "diffusion_pytorch_model.safetensors"]
    assert sorted(os.listdir(folder)) == files
    assert (folder / files[0]).read_text() == MODULE.read_text()
    settings = json.loads((folder / "config.json").read_text())
    assert settings["latents_mean"] == tokenizer.latent_mean.tolist()
    assert settings["latents_std"] == tokenizer.latent_std.tolist()
    names = load_file(folder / files[2])
    assert names["encoder.blocks.0.to_qkv.weight"].shape == (108, 36)


def test_it_is_read_back_and_generators_take_it(tokenizer, folder):
    back = load(folder)
    assert eqx.tree_equal(back, tokenizer)
    assert eqx.tree_equal(load(folder / "diffusion_pytorch_model.safetensors"), back)
    assert latents_hash(back) == latents_hash(tokenizer)


def test_a_missing_file_is_named(folder):
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no diffusion_pytorch_model\.saf"):
        load(folder)


def test_the_autoencoder_of_others_is_named(tmp_path):
    settings = {"_class_name": "AutoencoderKL", "latent_channels": 4}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    weights = {"encoder.conv_in.weight": np.zeros((1, 3, 3, 3), np.float32)}
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"^`_class_name` \('AutoencoderKL'\) must be"):
        load(tmp_path)
