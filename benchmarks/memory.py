"""Memory of a device: of the state at rest by formula, and of a small step as measured.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.memory
"""

import dataclasses

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from benchmarks.table import print_table
from vtp_eqx.config import (
    presets,
    PretrainConfig,
    PrototypeConfig,
    published,
    Sharding,
    TextConfig,
    ViewsConfig,
    VIT_FEMTO,
)
from vtp_eqx.losses.contrastive import clip_loss
from vtp_eqx.mesh import data_mesh, fsdp_spec, shard_batch
from vtp_eqx.models.tokenizer import Pretrainer, Teacher
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.pretrain import init_pretraining, loss_weights
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import SPLIT_PARTS, TrainState


DEVICES = (1, 8, 64, 256)
SHARDINGS: tuple[Sharding, ...] = ("none", "zero", "fsdp")
SMALL = PretrainConfig(
    tokenizer=published(
        VIT_FEMTO,
        text=TextConfig(context=16, vocabulary=256, width=48, depth=2, num_heads=2),
        image_size=32,
        patch_size=8,
    ),
    prototypes=PrototypeConfig(
        num_prototypes=8192, hidden_width=64, bottleneck_width=32
    ),
    views=ViewsConfig(global_size=32, local_size=16, num_local=2),
    batch_size=512,
    distillation_batch=256,
    reconstruction_batch=128,
    num_steps=10_000,
)


def state_shapes(config: PretrainConfig) -> TrainState:
    """The state of a pre-training as shapes; builds nothing."""

    def make() -> TrainState:
        student = Pretrainer(config.tokenizer, config.prototypes, key=jr.key(0))
        optimizer = make_optimizer(config.optimizer, config.num_steps)
        return TrainState.start(
            student, Teacher.of(student), loss_weights(config), optimizer, key=jr.key(1)
        )

    return eqx.filter_eval_shape(make)


def resting_bytes(shapes: TrainState, num_devices: int, sharding: Sharding) -> float:
    """What one device holds of a state between steps."""

    def held(part: str) -> float:
        leaves = jax.tree.leaves(eqx.filter(getattr(shapes, part), _is_float))
        divides = lambda leaf: (
            part in SPLIT_PARTS[sharding] and any(fsdp_spec(leaf.shape, num_devices))
        )
        return sum(
            leaf.size * leaf.dtype.itemsize / (num_devices if divides(leaf) else 1)
            for leaf in leaves
        )

    return sum(map(held, ("student", "teacher", "opt_state", "weights")))


def step_bytes(config: PretrainConfig, num_devices: int) -> tuple[int, int]:
    """What a device holds between steps and what a step adds to it, by the compiler."""
    mesh = data_mesh(num_devices)
    size, text = config.tokenizer.image_size, config.tokenizer.text
    assert text is not None
    images = np.zeros((config.batch_size, size, size, 3), np.uint8)
    captions = np.zeros((config.batch_size, text.context), np.int32)
    state, step = init_pretraining(config, images[:1], mesh)
    arrays = eqx.filter(state, eqx.is_inexact_array)
    resting = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(arrays)
    )
    batch = shard_batch(CaptionedBatch(images, captions), mesh)
    lowered = step.compiled.lower(eqx.filter(state, eqx.is_array), batch)  # type: ignore
    return resting, _temporary(lowered)


def contrast_bytes(pairs: int, block: int | None) -> int:
    """What the contrastive loss of so many pairs and its gradient need beside them."""
    rows = jax.ShapeDtypeStruct((pairs, 768), np.float32)
    scale = jax.ShapeDtypeStruct((), np.float32)
    loss = lambda image, text, scale: clip_loss(
        image, text, log_scale=scale, block=block
    ).mean()
    return _temporary(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(rows, rows, scale))


def main() -> None:
    rows = []
    for name in ("PRETRAIN_S", "PRETRAIN_B", "PRETRAIN_L"):
        shapes = state_shapes(getattr(presets, name))
        for sharding in SHARDINGS:
            held = [resting_bytes(shapes, number, sharding) for number in DEVICES]
            rows.append((f"{name} {sharding}", *(f"{n / 2**30:.2f}" for n in held)))
    columns = ("GiB of a device at rest", *(f"{number} devices" for number in DEVICES))
    print_table("State of a device between steps, by formula", columns, rows)

    rows = []
    for pairs in (4096, 16384, 32768):
        whole, blocked = contrast_bytes(pairs, pairs), contrast_bytes(pairs, None)
        rows.append(
            (f"{pairs} pairs", f"{whole / 2**20:.0f}", f"{blocked / 2**20:.0f}")
        )
    columns = ("contrast and its gradient", "MiB whole", "MiB in blocks")
    print_table("Contrastive logits, by the compiler", columns, rows)

    rows = []
    ways: list[tuple[int, int, Sharding]] = [
        (1, 1, "none"), (1, 8, "none"), (8, 1, "none"), (8, 1, "zero"), (8, 1, "fsdp")
    ]  # fmt: skip
    for num_devices, accumulate, sharding in ways:
        config = dataclasses.replace(SMALL, accumulate=accumulate, sharding=sharding)
        resting, added = step_bytes(config, num_devices)
        formula = resting_bytes(state_shapes(config), num_devices, sharding)
        rows.append(
            (
                f"{num_devices} devices, {accumulate} microbatches, {sharding}",
                f"{formula / 2**20:.2f}", f"{resting / 2**20:.2f}",
                f"{added / 2**20:.1f}",
            )
        )  # fmt: skip
    columns = ("small pre-training", "MiB by formula", "MiB at rest", "MiB of a step")
    print_table("A small step, measured", columns, rows)


def _temporary(lowered: jax.stages.Lowered) -> int:
    needed = lowered.compile().memory_analysis()
    assert needed is not None
    return needed.temp_size_in_bytes


def _is_float(leaf: object) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.numpy.issubdtype(dtype, jax.numpy.floating)


if __name__ == "__main__":
    main()
