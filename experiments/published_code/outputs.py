"""What the published PyTorch code computes from a checkpoint: run by `convert.py`.

    python outputs.py tokenizer|dit|autoencoder CLONE CHECKPOINT INPUTS OUTPUTS

Knows nothing of vtp_eqx, because it runs in an environment of its own: torch,
safetensors and what the published code imports. CLONE is a clone of MiniMax-AI/VTP or
of hustvl/LightningDiT, or has an autoencoder_vtp.py, CHECKPOINT is a folder, the others
are safetensors files.
"""

# Another environment than the one that checks types has these.
# pyright: reportMissingImports=false

import json
import os
from pathlib import Path
import sys


os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiled functions are as exact and slower

from safetensors.torch import load_file, save_file
import torch


def tokenizer_model(checkpoint):
    """The published model of a checkpoint, and the tensors it was given."""
    from vtp.models.vtp_hf import VTPConfig, VTPModel

    config = json.loads((checkpoint / "config.json").read_text())
    weights = load_file(checkpoint / "model.safetensors")
    # Not by `from_pretrained`: transformers 5 leaves the causal mask uninitialized.
    model = VTPModel(VTPConfig(**config)).eval()
    model.load_state_dict(weights)
    return model, weights


def tokenizer_outputs(checkpoint, inputs):
    """Features, latents, pixels and embeddings.

    The published model rounds rotary positions to bfloat16 whatever it loads. Where the
    checkpoint has them in float32, a second set of outputs is computed in float32.
    """
    model, weights = tokenizer_model(checkpoint)
    outputs = _tokenizer_outputs(model, inputs)
    periods = {n: p for n, p in weights.items() if n.endswith("rope_embed.periods")}
    if all(p.dtype == torch.float32 for p in periods.values()):
        for name, values in periods.items():
            positions = model.get_submodule(name.removesuffix(".periods"))
            positions.periods, positions.dtype = values, torch.float32
        exact = _tokenizer_outputs(model, inputs)
        outputs |= {f"{name}, float32 positions": v for name, v in exact.items()}
    return outputs


def _tokenizer_outputs(model, inputs):
    pixels = inputs["pixels"]
    features = model.get_last_layer_feature(pixels)
    latents = model.get_reconstruction_latents(pixels)
    outputs = {
        "cls": features["cls_token"],
        "patches": features["patch_tokens"],
        "latents": latents,
        "decoded": model.get_latents_decoded_images(latents),
    }
    if "text" in inputs:
        outputs["image embedding"] = model.get_clip_image_feature(pixels)
        outputs["text embedding"] = model.get_clip_text_feature(inputs["text"].long())
    return outputs


def dit_outputs(checkpoint, inputs):
    """The velocity of LightningDiT."""
    from models.lightningdit import LightningDiT

    config = json.loads((checkpoint / "config.json").read_text())
    names = LightningDiT.__init__.__code__.co_varnames
    model = LightningDiT(**{n: v for n, v in config.items() if n in names})
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    model.eval()
    return {"velocity": model(inputs["x"], inputs["t"], inputs["y"].long())}


def autoencoder_outputs(checkpoint, inputs):
    """Latents and images of the file that is written for users of PyTorch."""
    from autoencoder_vtp import AutoencoderVTP

    model = AutoencoderVTP.from_pretrained(checkpoint)
    latents = model.encode(inputs["images"])
    return {"latents": latents, "decoded": model.decode(latents)}


if __name__ == "__main__":
    kind, clone, checkpoint, inputs, outputs = sys.argv[1:]
    sys.path.insert(0, clone)
    compute = {
        "tokenizer": tokenizer_outputs,
        "dit": dit_outputs,
        "autoencoder": autoencoder_outputs,
    }[kind]
    with torch.no_grad():
        found = compute(Path(checkpoint), load_file(inputs))
    save_file({name: value.contiguous() for name, value in found.items()}, outputs)
