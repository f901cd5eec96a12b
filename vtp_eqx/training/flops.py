"""Floating-point operations by formula, as the paper counts them.

A transformer costs `2 * parameters * tokens` for a forward pass; attention products
and backward passes are left out. With this rule the encoder and decoder of the paper's
table 1 come out at 87.7 and 311.1 GFLOPs, and VTP-L at about 390 GFLOPs for each
contrastive sample, which matches its figures (RECIPE 5.7). Training, backward passes
included, costs about three times as much.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import PyTree

from vtp_eqx.config import DiTConfig, PretrainConfig
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.text import TextEncoder
from vtp_eqx.models.tokenizer import Tokenizer


def num_parameters(make: Callable[[], PyTree]) -> int:
    """The number of float parameters in what `make()` would build; builds nothing."""
    shapes = eqx.filter_eval_shape(make)
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(shapes, _is_float)))


def pretrain_flops(config: PretrainConfig) -> float:
    """Forward FLOPs of a pre-training per image of the contrastive batch."""
    tokenizer = config.tokenizer
    made = lambda: Tokenizer(tokenizer, key=jr.key(0))
    encoder = num_parameters(lambda: made().encoder)
    decoder = num_parameters(lambda: made().decoder)
    patches = lambda size: (size // tokenizer.patch_size) ** 2
    whole = patches(tokenizer.image_size)
    total = 0.0
    if config.reconstruction_weight > 0:
        share = config.reconstruction_batch / config.batch_size
        total += share * 2 * (encoder + decoder) * whole
    if config.contrast_weight > 0:
        shape = tokenizer.text
        assert shape is not None
        text = num_parameters(lambda: TextEncoder(shape, key=jr.key(0)).stack)
        total += 2 * encoder * whole + 2 * text * shape.context
    if config.distillation_weight > 0:
        share = config.distillation_batch / config.batch_size
        views = config.views
        # Student and teacher both see the two global crops.
        tokens = 2 * 2 * patches(views.global_size)
        tokens += views.num_local * patches(views.local_size)
        total += share * 2 * encoder * tokens
    return float(total)


def run_flops(config: PretrainConfig) -> float:
    """Forward FLOPs of a whole pre-training: the x axis of a scaling plot."""
    return pretrain_flops(config) * config.batch_size * config.num_steps


def generator_flops(config: DiTConfig) -> float:
    """Forward FLOPs of a diffusion transformer for one latent."""
    parameters = num_parameters(lambda: DiT(config, key=jr.key(0)))
    return float(2 * parameters * (config.latent_size // config.patch_size) ** 2)


def _is_float(leaf: object) -> bool:
    return eqx.is_inexact_array(leaf) or (
        isinstance(leaf, jax.ShapeDtypeStruct)
        and jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
    )
