"""Memory of a device: of the state at rest by formula, and of steps by the compiler.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.memory
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import print_table
from benchmarks.works import small_config
from vtp_eqx.config import presets, PretrainConfig, PrototypeConfig, Sharding
from vtp_eqx.losses.contrastive import clip_loss
from vtp_eqx.mesh import data_mesh, fsdp_spec
from vtp_eqx.runs.dry_run import dry_run
from vtp_eqx.training.pretrain import initial_state
from vtp_eqx.training.state import SPLIT_PARTS


DEVICES = (1, 8, 64, 256)
SHARDINGS: tuple[Sharding, ...] = ("none", "zero", "fsdp")
PROTOTYPES = PrototypeConfig(num_prototypes=8192, hidden_width=64, bottleneck_width=32)
SMALL = dataclasses.replace(
    small_config(), prototypes=PROTOTYPES, batch_size=512, distillation_batch=256,
    reconstruction_batch=128,
)  # fmt: skip


def resting_bytes(
    config: PretrainConfig, num_devices: int, sharding: Sharding
) -> float:
    """What one device holds of a training's state between steps."""
    state = eqx.filter_eval_shape(initial_state, config, None)

    def held(part: str, leaf: Any) -> float:
        is_split = part in SPLIT_PARTS[sharding] and any(
            fsdp_spec(leaf.shape, num_devices)
        )
        return leaf.size * leaf.dtype.itemsize / (num_devices if is_split else 1)

    return sum(
        held(part, leaf)
        for part in ("student", "teacher", "opt_state", "weights")
        for leaf in jax.tree.leaves(getattr(state, part))
        if isinstance(leaf, jax.ShapeDtypeStruct)
        and jnp.issubdtype(leaf.dtype, jnp.floating)
    )


def contrast_bytes(pairs: int, block: int | None) -> int:
    """What the contrastive loss of so many pairs and its gradient need beside them."""
    rows = jax.ShapeDtypeStruct((pairs, 768), np.float32)
    scale = jax.ShapeDtypeStruct((), np.float32)
    loss = lambda image, text, scale: clip_loss(
        image, text, log_scale=scale, block=block
    ).mean()
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(rows, rows, scale)
    needed = lowered.compile().memory_analysis()
    assert needed is not None
    return needed.temp_size_in_bytes


def main() -> None:
    rows = []
    for name in ("PRETRAIN_S", "PRETRAIN_B", "PRETRAIN_L"):
        for sharding in SHARDINGS:
            config = getattr(presets, name)
            held = [resting_bytes(config, number, sharding) for number in DEVICES]
            rows.append((f"{name} {sharding}", *(f"{n / 2**30:.2f}" for n in held)))
    columns = ("GiB of a device at rest", *(f"{number} devices" for number in DEVICES))
    print_table("State of a device between steps, by formula", columns, rows)

    rows = []
    for pairs in (4096, 16384, 32768):
        needed = contrast_bytes(pairs, pairs), contrast_bytes(pairs, None)
        rows.append((f"{pairs} pairs", *(f"{number / 2**20:.0f}" for number in needed)))
    columns = ("contrast and its gradient", "MiB whole", "MiB in blocks")
    print_table("Contrastive logits, by the compiler", columns, rows)

    rows = []
    ways: list[tuple[int, int, Sharding]] = [
        (1, 1, "none"), (1, 8, "none"), (8, 1, "none"), (8, 1, "zero"), (8, 1, "fsdp")
    ]  # fmt: skip
    for num_devices, accumulate, sharding in ways:
        config = dataclasses.replace(SMALL, accumulate=accumulate, sharding=sharding)
        size = config.tokenizer.image_size
        found = dry_run(config, data_mesh(num_devices), size)
        assert found.compiled_bytes is not None
        numbers = (
            resting_bytes(config, num_devices, sharding),
            found.state_bytes,
            found.compiled_bytes["in between"],
        )
        name = f"{num_devices} devices, {accumulate} microbatches, {sharding}"
        rows.append((name, *(f"{number / 2**20:.2f}" for number in numbers)))
    columns = ("small pre-training", "MiB by formula", "MiB at rest", "MiB of a step")
    print_table("A small step, by the compiler", columns, rows)


if __name__ == "__main__":
    main()
