"""Floating-point operations by formula, as the paper counts them.

A transformer costs `2 * parameters * tokens` for a forward pass; attention products
and backward passes are left out. With this rule the encoder and decoder of the paper's
table 1 come out at 87.7 and 311.1 GFLOPs, and VTP-L at about 390 GFLOPs for each
contrastive sample, which matches its figures (RECIPE 5.7). Training adds backward
passes, but not the teacher's, and shares what two objectives both need: between two and
three times as much, by objective.
"""

from collections.abc import Callable, Mapping
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from vtp_eqx.config import DiTConfig, PretrainConfig
from vtp_eqx.frozen.lpips import STAGES
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.text import TextEncoder
from vtp_eqx.models.tokenizer import Tokenizer


def num_parameters(make: Callable[[], PyTree]) -> int:
    """The number of float parameters in what `make()` would build; builds nothing."""
    shapes = eqx.filter_eval_shape(make)
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(shapes, _is_float)))


def pretrain_flops(config: PretrainConfig) -> float:
    """Forward FLOPs of a pre-training per image of the contrastive batch."""
    return float(sum(_forward_parts(config).values()))


def train_flops(config: PretrainConfig) -> float:
    """FLOPs of one step of a pre-training, backward passes included.

    A backward pass costs two forward ones; the teacher has none. Where contrast and
    reconstruction share the encoder's pass (no stochastic depth), it counts once: what
    a step must do, and therefore what a share of the machine's peak is taken of.
    """
    parts = _forward_parts(config)
    teacher = parts.pop("teacher", 0.0)
    # LPIPS: two images forward, and one of them backward to no weight of its own.
    looks = config.reconstruction.perceptual_weight * config.reconstruction_weight > 0
    looking = _perceptual_flops(config.tokenizer.image_size) if looks else 0.0
    shares = config.contrast_drop == config.reconstruction_drop == 0
    if config.contrast_weight > 0 and shares:
        parts.pop("reconstruction encoder", None)
    return float(
        config.batch_size * (3 * sum(parts.values()) + teacher)
        + config.reconstruction_batch * 3 * looking
    )


def _perceptual_flops(side: int) -> float:
    """Forward FLOPs of the convolutions of LPIPS for one image."""
    flops, width = 0.0, 3
    for number, stage in enumerate(STAGES):
        for next_width in stage:
            flops += 2 * 9 * width * next_width * (side // 2**number) ** 2
            width = next_width
    return flops


def _forward_parts(config: PretrainConfig) -> dict[str, float]:
    """FLOPs of each forward pass per image of the contrastive batch."""
    tokenizer = config.tokenizer
    made = lambda: Tokenizer(tokenizer, key=jr.key(0))
    encoder = num_parameters(lambda: made().encoder)
    decoder = num_parameters(lambda: made().decoder)
    patches = lambda size: (size // tokenizer.patch_size) ** 2
    whole = patches(tokenizer.image_size)
    parts = {}
    if config.reconstruction_weight > 0:
        share = config.reconstruction_batch / config.batch_size
        parts["reconstruction encoder"] = share * 2 * encoder * whole
        parts["reconstruction decoder"] = share * 2 * decoder * whole
    if config.contrast_weight > 0:
        shape = tokenizer.text
        assert shape is not None
        text = num_parameters(lambda: TextEncoder(shape, key=jr.key(0)).stack)
        parts["contrast"] = 2 * encoder * whole + 2 * text * shape.context
    if config.distillation_weight > 0:
        share = config.distillation_batch / config.batch_size
        views = config.views
        # Student and teacher both see the two global crops.
        seen = 2 * patches(views.global_size)
        narrow = views.num_local * patches(views.local_size)
        parts["teacher"] = share * 2 * encoder * seen
        parts["student"] = share * 2 * encoder * (seen + narrow)
    return parts


@functools.cache
def run_flops(config: PretrainConfig) -> float:
    """FLOPs of a whole pre-training by `train_flops`: the x axis of a scaling plot."""
    return train_flops(config) * config.num_steps


def generator_flops(config: DiTConfig) -> float:
    """Forward FLOPs of a diffusion transformer for one latent."""
    parameters = num_parameters(lambda: DiT(config, key=jr.key(0)))
    return float(2 * parameters * (config.latent_size // config.patch_size) ** 2)


# Dense bfloat16 FLOP/s of one device, from the makers' data sheets, by a part of the
# name that JAX gives it. The first that fits counts.
PEAKS: Mapping[str, float] = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,  # float16: it has no bfloat16
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4 lite": 138e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
    "TPU v2": 46e12,
}


def device_peak(device: Any = None) -> tuple[float, str]:
    """FLOP/s that a device can do at most, and where that number is from.

    A device that is not in `PEAKS`, such as a CPU, multiplies some matrices. Devices
    that are simulated on one CPU share it, so each has its part.
    """
    device = jax.devices()[0] if device is None else device
    if (rate := known_peak(device.device_kind)) is not None:
        return rate, f"data sheet of {device.device_kind}"
    parts = jax.local_device_count() if device.platform == "cpu" else 1
    return _product_rate() / parts, "measured products of float32 matrices"


def known_peak(kind: str) -> float | None:
    """The entry of `PEAKS` for what JAX calls a kind of device, if there is one."""
    return next((rate for name, rate in PEAKS.items() if name in kind), None)


def _product_rate() -> float:
    """FLOP/s of the fastest of some products of square matrices.

    Large ones use all cores best; small ones end before another process gets its turn.
    """
    rates = []
    for size, repeats in ((512, 50), (1024, 5)):
        left, right = jr.normal(jr.key(0), (2, size, size))
        product = jax.jit(jnp.matmul)
        product(left, right).block_until_ready()
        for _ in range(repeats):
            begun = time.perf_counter()
            product(left, right).block_until_ready()
            rates.append(2 * size**3 / (time.perf_counter() - begun))
    return max(rates)


def _is_float(leaf: object) -> bool:
    return eqx.is_inexact_array(leaf) or (
        isinstance(leaf, jax.ShapeDtypeStruct)
        and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )
