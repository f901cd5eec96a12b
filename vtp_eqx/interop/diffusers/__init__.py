"""Tokenizers as diffusers keeps its autoencoders, and back, by one table of names.

A folder has `config.json`, with the statistics of the latents,
`diffusion_pytorch_model.safetensors`, and for PyTorch the one file that computes with
them: `autoencoder_vtp.py`, which nothing in this library imports.
"""

from vtp_eqx.interop.diffusers.checkpoint import (
    autoencoder_outputs as autoencoder_outputs,
    describes_diffusers as describes_diffusers,
    DIFFUSERS_WEIGHTS as DIFFUSERS_WEIGHTS,
    is_diffusers as is_diffusers,
    read_diffusers as read_diffusers,
    save_diffusers as save_diffusers,
    tokenizer_from_diffusers as tokenizer_from_diffusers,
    tokenizer_to_diffusers as tokenizer_to_diffusers,
)
