"""The job of training a diffusion transformer on a tokenizer's latents, in a folder."""

from collections.abc import Callable, Collection
from pathlib import Path

from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import GenerateConfig, require
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.dit import DiT
from vtp_eqx.runs.batches import array_batches
from vtp_eqx.runs.loop import Callbacks, Progress, run_training
from vtp_eqx.training.generate import init_generator_training
from vtp_eqx.training.generate_objective import LatentBatch
from vtp_eqx.training.state import TrainState


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
    mesh = data_mesh() if mesh is None else mesh
    state, step = init_generator_training(config, mesh)
    arrays = {"latents": latents, "label": labels}

    def keep(state: TrainState, done: int) -> dict[str, float]:
        snapshot(done, state.teacher)
        return {}

    state = run_training(
        state, step,
        array_batches(LatentBatch, arrays, config.batch_size, seed=config.seed),
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
        callbacks=Callbacks(
            evaluate=keep, evaluate_every=max(config.num_steps, 1),
            evaluate_steps=snapshot_steps,
        ),
    )  # fmt: skip
    return state.teacher
