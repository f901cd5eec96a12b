"""The training of a generator at full size: from batches of latents to a transformer.

`train_generator` does the same for latents that are in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from pathlib import Path

from jax.sharding import Mesh

from vtp_eqx.config import GenerateConfig
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.models.dit import DiT
from vtp_eqx.runs.generator_dry_run import train_step_flops
from vtp_eqx.runs.log import Sink
from vtp_eqx.runs.loop import Callbacks, FaultTolerance, Progress, run_training
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.flops import device_peak
from vtp_eqx.training.generate import init_generator_training
from vtp_eqx.training.generate_objective import LatentBatch
from vtp_eqx.training.state import TrainState


FAULT_TOLERANCE = FaultTolerance()


def train_on_batches(
    config: GenerateConfig,
    batches: Callable[[int], Iterator[LatentBatch]],
    *,
    folder: Path,
    mesh: Mesh | None = None,
    evaluate: Callable[[DiT, int], dict[str, float]] | None = None,
    evaluate_every: int = 10_000,
    log_every: int = 50,
    save_every: int = 1000,
    fault_tolerance: FaultTolerance = FAULT_TOLERANCE,
    progress: Progress = lambda done, num_steps, metrics: None,
    sinks: Sequence[Sink] = (),
    holds_folder: bool = False,
) -> DiT:
    """The moving average of the transformer that learned from `batches`.

    The loop, checkpoints, exact resume and recovery are those of a pre-training
    (`run_training`, which says what it raises).

    - `batches(first)` yields this process's part of the batches from number `first` on.
    - `evaluate(dit, step)` gives numbers of the moving average, such as an FID of a few
      thousand samples, every `evaluate_every` steps and at the end. All processes call
      it, each with the whole average on one of its devices. The largest `score` it
      gives is that of the best checkpoint, of which `fault_tolerance.keep_best` stay.
    - `holds_folder`: the caller has locked `folder` and written its config.
    """
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_generator_training(config, mesh)
    peak, _ = device_peak(mesh.devices.flat[0])

    def measure(state: TrainState, done: int) -> dict[str, float]:
        assert evaluate is not None
        return evaluate(gather_to_host(state.teacher), done)

    state = run_training(
        state, step, batches,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        log_every=log_every, save_every=save_every, fault_tolerance=fault_tolerance,
        config=None if holds_folder else config, holds_folder=holds_folder,
        callbacks=Callbacks(
            evaluate=None if evaluate is None else measure,
            evaluate_every=evaluate_every,
            score=lambda values: values.get("score", -values.get("total", inf)),
            sinks=sinks,
            cost=StepCost(
                images=config.batch_size,
                flops=train_step_flops(config),
                peak=peak * mesh.devices.size,
            ),
            rows=getattr(batches, "rows", None),
        ),
    )  # fmt: skip
    return gather_to_host(state.teacher)
