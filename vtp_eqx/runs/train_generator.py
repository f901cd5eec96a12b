"""The job of training a diffusion transformer on a tokenizer's latents, in a folder."""

from collections.abc import Callable, Collection, Iterator
from math import inf
from pathlib import Path

from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import GenerateConfig, require
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import check_labels
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.loop import Callbacks, FaultTolerance, Progress, run_training
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.flops import device_peak, train_step_flops
from vtp_eqx.training.generate import init_generator_training, LatentBatch


def train_generator(
    config: GenerateConfig,
    latents: np.ndarray,
    labels: np.ndarray,
    *,
    folder: Path,
    mesh: Mesh | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
    snapshot: Callable[[int, DiT], None] = lambda step, dit: None,
    snapshot_steps: Collection[int] = (),
) -> DiT:
    """The moving average of the transformer that learned to generate `latents`.

    - `latents`: `[num, side, side, channels]`, normalized per channel.
    - `labels`: int `[num]`, the class of each.
    - `folder`: config, log and checkpoints; a run that was cut off continues from them,
      with the same config or else a `ValueError`.
    - `snapshot(step, dit)` is called with the moving average after each of
      `snapshot_steps` and at the end; again where a run continues from before it.
    """
    deviation = float(np.std(latents))
    require(
        0.5 < deviation < 2,
        "Latents must be normalized to deviation 1 per channel; got a deviation of "
        f"{deviation:.3g}: measure the tokenizer's statistics and use them.",
    )
    check_labels(labels, config.dit.num_classes)

    def keep(dit: DiT, step: int) -> dict[str, float]:
        snapshot(step, dit)
        return {}

    arrays = {"latents": latents, "condition": labels}
    return train_on_batches(
        config,
        ArrayBatches(LatentBatch, arrays, config.batch_size, seed=config.seed),
        folder=folder, mesh=mesh, progress=progress,
        evaluate=keep, evaluate_every=max(config.num_steps, 1),
        evaluate_steps=snapshot_steps,
    )  # fmt: skip


def train_on_batches(
    config: GenerateConfig,
    batches: Callable[[int], Iterator[LatentBatch]],
    *,
    folder: Path,
    mesh: Mesh | None = None,
    evaluate: Callable[[DiT, int], dict[str, float]] | None = None,
    evaluate_every: int = 10_000,
    evaluate_steps: Collection[int] = (),
    log_every: int = 50,
    save_every: int = 1000,
    fault_tolerance: FaultTolerance = FaultTolerance(),
    progress: Progress = lambda done, num_steps, metrics: None,
    holds_folder: bool = False,
) -> DiT:
    """`train_generator` on batches that need not be in memory.

    - `batches(first)` yields this process's part of the batches from number `first` on.
    - `evaluate(dit, step)`: as in `Callbacks`, with the whole moving average on one
      device of each process. The largest `score` it gives is the best checkpoint's.
    - `holds_folder`: the caller has locked `folder` and written its config.

    The other arguments, and what is raised, are those of `run_training`.
    """
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_generator_training(config, mesh)
    peak, _ = device_peak(mesh.devices.flat[0])

    state = run_training(
        state, step, batches,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        log_every=log_every, save_every=save_every, fault_tolerance=fault_tolerance,
        config=config, holds_folder=holds_folder,
        recompute_every=config.recompute_every,
        callbacks=Callbacks(
            evaluate=evaluate and (
                lambda state, done: evaluate(gather_to_host(state.teacher), done)
            ),
            evaluate_every=evaluate_every,
            evaluate_steps=evaluate_steps,
            score=lambda values: values.get("score", -values.get("total", inf)),
            cost=StepCost(
                images=config.batch_size,
                flops=train_step_flops(config),
                peak=peak * mesh.devices.size,
            ),
            rows=getattr(batches, "rows", None),
        ),
    )  # fmt: skip
    return gather_to_host(state.teacher)
