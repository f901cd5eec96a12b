"""Parameter counts, and the FLOPs of a forward pass per image.

A transformer costs `2 * parameters * tokens`, as the paper counts; products of
attention are left out (`vtp_eqx.training.flops`).
"""

from collections.abc import Callable
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from vtp_eqx.config import DiTConfig, TokenizerConfig
from vtp_eqx.frozen.lpips import STAGES
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.tokenizer import Tokenizer


def num_parameters(make: Callable[[], PyTree]) -> int:
    """The number of float parameters in what `make()` would build; builds nothing."""
    return sum(
        leaf.size
        for leaf in jax.tree.leaves(eqx.filter_eval_shape(make))
        if isinstance(leaf, jax.ShapeDtypeStruct)
        and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


@functools.cache
def dit_parameters(config: DiTConfig) -> int:
    """The number of float parameters of a diffusion transformer."""
    return num_parameters(lambda: DiT(config, key=jr.key(0)))


def encoder_flops(config: TokenizerConfig, image_size: int) -> float:
    """Forward FLOPs of the encoder for an image with sides of so many pixels."""
    patches = (image_size // config.patch_size) ** 2
    return 2.0 * _tokenizer_parameters(config)[0] * patches


def decoder_flops(config: TokenizerConfig) -> float:
    """Forward FLOPs of the pixel decoder for an image."""
    patches = (config.image_size // config.patch_size) ** 2
    return 2.0 * _tokenizer_parameters(config)[1] * patches


def perceptual_flops(side: int) -> float:
    """Forward FLOPs of the convolutions of LPIPS for one image."""
    flops, width = 0.0, 3
    for number, stage in enumerate(STAGES):
        for next_width in stage:
            flops += 2 * 9 * width * next_width * (side // 2**number) ** 2
            width = next_width
    return flops


@functools.cache
def _tokenizer_parameters(config: TokenizerConfig) -> tuple[int, int]:
    """Of encoder and decoder."""
    made = lambda: Tokenizer(config, key=jr.key(0))
    return num_parameters(lambda: made().encoder), num_parameters(
        lambda: made().decoder
    )
