"""Training FLOPs by formula, as the paper counts them.

A transformer costs `2 * parameters * tokens` for a forward pass; attention products
and backward passes are left out. With this rule the encoder and decoder of the paper's
table 1 come out at 87.7 and 311.1 GFLOPs, and VTP-L at about 390 GFLOPs for each
contrastive sample, which matches its figures. Training adds backward passes, but not
the teacher's, and shares what two objectives both need: between two and three times as
much, by objective.
"""

from collections.abc import Mapping
import functools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from vtp_eqx.config import DiTConfig, GenerateConfig, PretrainConfig
from vtp_eqx.models.dit import DiT, TIME_WAVES
from vtp_eqx.training.parameter_counts import dit_parameters
from vtp_eqx.training.pretrain import needs_of, pretrain_terms
from vtp_eqx.training.terms.encoder_passes import shares_whole_pass
from vtp_eqx.training.terms.repulsion import Repulsion


def train_flops(config: PretrainConfig) -> float:
    """FLOPs of one step of a pre-training, backward passes included.

    A backward pass costs two forward ones; the teacher has none. Where contrast and
    reconstruction share the encoder's pass (no stochastic depth), it counts once: what
    a step must do, and therefore what a share of the machine's peak is taken of.
    """
    terms = pretrain_terms(config)
    parts = [(term.batch_size / config.batch_size, term.flops()) for term in terms]
    student = sum(share * one.student for share, one in parts)
    if not shares_whole_pass(config, needs_of(terms)):
        # The encoder's pass over the images that are decoded, once for all terms.
        student += max((share * one.subset_pass for share, one in parts), default=0.0)
    others = sum(share * (one.teacher + one.frozen) for share, one in parts)
    return float(config.batch_size * (3 * student + others))


@functools.cache
def run_flops(config: PretrainConfig) -> float:
    """FLOPs of a whole pre-training by `train_flops`: the x axis of a scaling plot."""
    return train_flops(config) * config.num_steps


def generator_flops(config: DiTConfig) -> float:
    """Forward FLOPs of a diffusion transformer for one latent."""
    return float(2 * dit_parameters(config) * num_tokens(config))


def forward_flops(config: DiTConfig) -> float:
    """Products of matrices in one velocity of one latent.

    Unlike `generator_flops`, the paper's rule of two for each parameter and token, this
    counts what is computed once a latent (time, class and modulation) once, and the
    products of attention.
    """
    width, tokens = config.width, num_tokens(config)
    blocks = eqx.filter_eval_shape(lambda: DiT(config, key=jr.key(0))).blocks
    weights = lambda part: sum(
        leaf.size for leaf in jax.tree.leaves(part) if len(leaf.shape) > 2
    )
    # Norms and biases have no product; with the layer axis, matrices have three.
    each_token = weights((blocks.attention, blocks.feed_forward))
    each_token += 2 * config.patch_size**2 * config.latent_width * width
    each_latent = weights(blocks.modulation) + (2 * TIME_WAVES + 3 * width) * width
    attention = config.depth * 2 * tokens**2 * width
    return 2.0 * (each_token * tokens + each_latent + attention)


def train_step_flops(config: GenerateConfig) -> float:
    """FLOPs of one step of a generator's training, on all devices.

    A backward pass costs two forward ones.
    """
    trained, frozen = forward_flops(config.dit), 0.0
    if config.repulsion.weight > 0:
        repulsion = Repulsion(config).flops()
        trained, frozen = trained + repulsion.student, repulsion.frozen
    return config.batch_size * (3 * trained + frozen)


def num_tokens(config: DiTConfig) -> int:
    """Tokens of one latent, and of the caption before it where there is one."""
    caption = config.text_context if config.condition == "text" else 0
    return (config.latent_size // config.patch_size) ** 2 + caption


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


@functools.cache
def _product_rate() -> float:
    """FLOP/s of the fastest of some products of square matrices, measured once.

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
