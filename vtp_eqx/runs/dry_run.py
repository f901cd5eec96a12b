"""Memory, FLOPs and sizes of a training, computed before it starts.

Of a pre-training the compiler is asked; of a generator all is by formula.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from vtp_eqx.config import GenerateConfig, PretrainConfig
from vtp_eqx.mesh import SPLIT
from vtp_eqx.runs.throughput import format_duration
from vtp_eqx.training.flops import (
    device_peak,
    num_tokens,
    train_flops,
    train_step_flops,
)
from vtp_eqx.training.optimizer import learning_rate
from vtp_eqx.training.parameter_counts import dit_parameters, num_parameters
from vtp_eqx.training.pretrain import (
    initial_state,
    pretrain_step,
    pretrain_terms,
    text_config,
)
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import placement, TrainState
from vtp_eqx.training.terms.alignment import blank_vision_if_used
from vtp_eqx.training.terms.reconstruction import blank_perceptual_if_used


# Ours: the shares of its peak that a machine may be hoped to reach.
PRETRAIN_MFU, GENERATOR_MFU = 0.3, 0.4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun:
    """Counts, FLOPs and bytes; those of the compiler are `None` where not compiled."""

    parameters: dict[str, int]
    formula_flops: float  # of a step, all devices
    compiled_flops: float | None  # of a step, all devices
    state_bytes: int  # of the training state, on each device
    compiled_bytes: dict[str, int] | None  # of each device
    peak: float  # FLOP/s of all devices
    peak_source: str


def dry_run(
    config: PretrainConfig, mesh: Mesh, image_side: int, *, compiles: bool = True
) -> DryRun:
    """The dry run of `config`; allocates no array.

    - `image_side`: of the stored images, in pixels.
    - `compiles`: whether to ask the compiler too, which takes as long as in a run.
    """
    arrays, _ = _initial_shapes(config, mesh)
    student = arrays.student
    parts = {
        "encoder": student.tokenizer.encoder,
        "bottleneck": student.tokenizer.bottleneck,
        "decoder": student.tokenizer.decoder,
        "text tower": (student.tokenizer.text, student.tokenizer.projection),
        "prototype head": student.prototypes,
    }
    flops = memory = None
    if compiles:
        compiled = lowered_step(config, mesh, image_side).compile()
        costs = compiled.cost_analysis()
        if costs and "flops" in costs:
            flops = float(costs["flops"]) * mesh.devices.size
        found = compiled.memory_analysis()
        if found is not None:
            memory = {
                "arguments": found.argument_size_in_bytes,
                "results": found.output_size_in_bytes - found.alias_size_in_bytes,
                "in between": found.temp_size_in_bytes,
            }
    peak, source = device_peak(mesh.devices.flat[0])
    count = lambda part: num_parameters(lambda: part)
    held = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape))
    return DryRun(
        parameters={name: count(part) for name, part in parts.items()},
        formula_flops=train_flops(config),
        compiled_flops=flops,
        state_bytes=sum(
            held(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays)
        ),
        compiled_bytes=memory,
        peak=peak * mesh.devices.size,
        peak_source=source,
    )


def lowered_step(
    config: PretrainConfig, mesh: Mesh, image_side: int
) -> jax.stages.Lowered:
    """The step that a run compiles, of arrays placed as there; makes none."""
    arrays, step = _initial_shapes(config, mesh)
    text = text_config(config)
    size, side = config.batch_size, image_side
    zeros = lambda shape, kind: jnp.zeros((size, *shape), kind)
    batch = eqx.filter_eval_shape(
        lambda: CaptionedBatch(
            zeros((side, side, 3), jnp.uint8),
            None if text is None else zeros((text.context,), jnp.int32),
        )
    )
    rows = NamedSharding(mesh, SPLIT)
    return step.compiled.lower(
        arrays, _with_sharding(batch, jax.tree.map(lambda _: rows, batch))
    )


def _initial_shapes(config: PretrainConfig, mesh: Mesh) -> tuple[Any, Any]:
    """The shapes of the first state, placed as in a run, and the step."""
    made: list[Any] = []
    # Made out here: inside, its arrays would be shapes.
    perceptual = blank_perceptual_if_used(config.reconstruction)
    vision = blank_vision_if_used(config)

    def make() -> TrainState:
        state = initial_state(config, None)
        # Here, where shapes still look like arrays; neither keeps one.
        places = placement(state, mesh, config.sharding).state
        made.extend([places, pretrain_step(config, state, mesh, perceptual, vision)])
        return state

    state = eqx.filter_eval_shape(make)
    places, step = made
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    return _with_sharding(eqx.filter(state, is_shape), places), step


def _with_sharding(shapes: Any, places: Any) -> Any:
    placed = lambda leaf, place: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=place
    )
    return jax.tree.map(placed, shapes, places)


def dry_run_lines(
    config: PretrainConfig, found: DryRun, mesh: Mesh, num_examples: int
) -> list[str]:
    """A dry run as text, one line for each number."""
    size, steps = config.batch_size, config.num_steps
    count = sum(found.parameters.values())
    parts = ", ".join(
        f"{name} {number:,}" for name, number in found.parameters.items() if number
    )
    seen = size * steps
    share = "{0.name} {0.batch_size} ({1:.0%}, weight {0.weight:g})".format
    used = [share(term, term.batch_size / size) for term in pretrain_terms(config)]
    rate: Any = learning_rate(config.optimizer, config.num_steps)
    places = sorted({0, config.optimizer.warmup_steps, steps // 2, steps - 1})
    schedule = ", ".join(f"{float(rate(jnp.asarray(at))):.2e} at {at}" for at in places)
    seconds = found.formula_flops * steps / (PRETRAIN_MFU * found.peak)
    devices = mesh.devices.size
    compiled = ""
    if found.compiled_flops is not None:
        number = f"{found.compiled_flops:.4g}"
        compiled = f", {number} by the compiler (loops may count once)"
    lines = [
        f"parameters      {count:,}: {parts}",
        f"data            {num_examples:,} examples, seen "
        f"{seen / max(num_examples, 1):.3g} times each",
        f"batch           {size}: {'; '.join(used)}",
        f"schedule        {steps:,} steps; learning rate {schedule}",
        f"FLOPs per step  {found.formula_flops:.4g} by formula{compiled}",
        f"training state  {_format_bytes(found.state_bytes)} on each device (sharding "
        f"{config.sharding!r}, {config.precision})",
    ]
    if found.compiled_bytes is not None:
        split = ", ".join(
            f"{_format_bytes(number)} {name}"
            for name, number in found.compiled_bytes.items()
        )
        total = _format_bytes(sum(found.compiled_bytes.values()))
        lines.append(f"each device     {total}: {split} (of {devices} devices)")
    lines += [
        f"peak            {found.peak:.3g} FLOP/s on {devices} devices "
        f"({found.peak_source})",
        f"time            about {format_duration(seconds)} at {PRETRAIN_MFU:.0%} of it",
    ]
    return lines


def _format_bytes(number: float) -> str:
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def state_bytes(config: GenerateConfig, num_devices: int) -> float:
    """Of student, average and two moments in float32, on each device between steps.

    And of the memory bank, where there is one.
    """
    size = 4 * dit_parameters(config.dit)
    split = {"none": 0, "zero": 3, "fsdp": 4}[config.sharding]
    repulsion = config.repulsion
    bank = 4 * repulsion.bank_size * repulsion.width * (repulsion.weight > 0)
    return size * (4 - split + split / num_devices) + bank


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
    # The input, and qkv, the values mixed and two outputs.
    carry = dit.width * (4 if dit.residual == "float32" else number)
    products = carry + number * (6 * dit.width + hidden)
    logits = (4 + number) * dit.num_heads * num_tokens(dit) * (dit.attention == "plain")
    whole = products + number * (7 * dit.width + hidden) + logits
    # Without remat also what each branch reads, and the tokens between them.
    ends = products + 2 * number * dit.width + carry
    kept = {"none": ends, "dots": products, "full": carry}[dit.remat]
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
    conditions = f"{dit.num_classes} classes"
    if dit.condition == "text":
        conditions = f"{dit.text_context} of them a caption's"
    seen = config.batch_size * config.num_steps
    epochs = f", {seen / num_images:.3g} times each" if num_images else ""
    sizes = [number(config, devices) for number in (state_bytes, step_bytes)]
    seconds = flops * config.num_steps / (GENERATOR_MFU * peak * devices)
    return [
        f"parameters      {dit_parameters(dit):,}: width "
        f"{dit.width}, depth {dit.depth}, {dit.num_heads} heads",
        f"latents         {dit.latent_size} x {dit.latent_size} x {dit.latent_width}, "
        f"{tokens} tokens, {conditions}",
        f"steps           {config.num_steps:,} of {config.batch_size} images "
        f"({config.accumulate} microbatches): {seen:,} images{epochs}, "
        f"{seen * tokens:.4g} tokens",
        f"times           logit-normal, mean {config.time_mean:g}, deviation "
        f"{config.time_std:g}",
        f"FLOPs           {flops:.4g} a step, {flops * config.num_steps:.4g} in all",
        f"each device     {sizes[0] / 1e9:.3g} GB of state (sharding "
        f"{config.sharding!r}), about {sizes[1] / 1e9:.3g} GB more in a step "
        f"({config.precision}, remat {dit.remat!r})",
        f"time            about {format_duration(seconds)} at {GENERATOR_MFU:.0%} of "
        f"{peak * devices:.3g} FLOP/s on {devices} devices ({source})",
    ]
