"""What the training of a generator will take, by formula: nothing is compiled."""

import equinox as eqx
import jax
import jax.random as jr
from jax.sharding import Mesh

from vtp_eqx.config import DiTConfig, GenerateConfig
from vtp_eqx.models.dit import DiT, TIME_WAVES
from vtp_eqx.runs.throughput import format_duration
from vtp_eqx.training.flops import device_peak
from vtp_eqx.training.parameter_counts import dit_parameters


TYPICAL_MFU = 0.4  # ours: the share of its peak that a machine may be hoped to reach


def forward_flops(config: DiTConfig) -> float:
    """Products of matrices in one velocity of one latent.

    Unlike `training.flops.generator_flops`, the paper's rule of two for each parameter
    and token, this counts what is computed once a latent (time, class and modulation)
    once, and attention's products.
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
    """FLOPs of one step on all devices: a backward pass costs two forward ones."""
    return 3 * config.batch_size * forward_flops(config.dit)


def num_tokens(config: DiTConfig) -> int:
    """Tokens of one latent."""
    return (config.latent_size // config.patch_size) ** 2


def state_bytes(config: GenerateConfig, num_devices: int) -> float:
    """Of student, average and two moments in float32, on each device between steps."""
    size = 4 * dit_parameters(config.dit)
    split = {"none": 0, "zero": 3, "fsdp": 4}[config.sharding]
    return size * (4 - split + split / num_devices)


def step_bytes(config: GenerateConfig, num_devices: int) -> float:
    """About what a step takes on each device beside the state.

    The gradient, a copy of the weights where they are rounded, what blocks keep for the
    backward pass of one microbatch, and all that one block computes.
    """
    dit = config.dit
    parameters = dit_parameters(dit)
    number = {"float32": 4, "bfloat16": 2}[config.precision]
    tokens = num_tokens(dit) * config.batch_size / num_devices / config.accumulate
    hidden = dit.mlp_ratio * dit.width * (4 / 3 if dit.swiglu else 1)  # gate and up
    # qkv, the values mixed, two outputs, and the input
    products = number * (7 * dit.width + hidden)
    logits = (4 + number) * dit.num_heads * num_tokens(dit) * (dit.attention == "plain")
    whole = products + number * (7 * dit.width + hidden) + logits
    # Without remat also what each branch reads, and the tokens between them.
    ends = products + 3 * number * dit.width
    kept = {"none": ends, "dots": products, "full": number * dit.width}[dit.remat]
    rounded = 0 if config.precision == "float32" else 2 * number * parameters
    return 4 * parameters + rounded + tokens * (dit.depth * kept + whole)


def generator_dry_run_lines(
    config: GenerateConfig, mesh: Mesh, num_images: int | None
) -> list[str]:
    """The forecast in words and numbers, a line each.

    `num_images` are those of the data, where it is known.
    """
    dit, devices = config.dit, mesh.devices.size
    peak, source = device_peak(mesh.devices.flat[0])
    flops, tokens = train_step_flops(config), num_tokens(dit)
    seen = config.batch_size * config.num_steps
    epochs = f", {seen / num_images:.3g} times each" if num_images else ""
    sizes = [number(config, devices) for number in (state_bytes, step_bytes)]
    seconds = flops * config.num_steps / (TYPICAL_MFU * peak * devices)
    return [
        f"parameters      {dit_parameters(dit):,}: width "
        f"{dit.width}, depth {dit.depth}, {dit.num_heads} heads",
        f"latents         {dit.latent_size} x {dit.latent_size} x {dit.latent_width}, "
        f"{tokens} tokens, {dit.num_classes} classes",
        f"steps           {config.num_steps:,} of {config.batch_size} images "
        f"({config.accumulate} microbatches): {seen:,} images{epochs}, "
        f"{seen * tokens:.4g} tokens",
        f"times           logit-normal, mean {config.time_mean:g}, deviation "
        f"{config.time_std:g}",
        f"FLOPs           {flops:.4g} a step, {flops * config.num_steps:.4g} in all",
        f"each device     {sizes[0] / 1e9:.3g} GB of state (sharding "
        f"{config.sharding!r}), about {sizes[1] / 1e9:.3g} GB more in a step "
        f"({config.precision}, remat {dit.remat!r})",
        f"time            about {format_duration(seconds)} at {TYPICAL_MFU:.0%} of "
        f"{peak * devices:.3g} FLOP/s on {devices} devices ({source})",
    ]
