"""Training a diffusion transformer on a tokenizer's latents."""

from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import GenerateConfig, require
from vtp_eqx.data.loader import batches
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.dit import DiT
from vtp_eqx.training.generate_objective import generate_objective, Latents
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.run import Progress, run, Step
from vtp_eqx.training.state import copied, placed, TrainState
from vtp_eqx.training.step import make_step


def train_generator(
    config: GenerateConfig,
    latents: np.ndarray,
    labels: np.ndarray,
    *,
    folder: Path,
    mesh: Mesh | None = None,
    progress: Progress = lambda done, num_steps, metrics: None,
) -> DiT:
    """The moving average of the transformer that learned to generate `latents`.

    - `latents`: `[num, side, side, channels]`, normalized per channel.
    - `labels`: int `[num]`, the class of each.
    - `folder`: log and checkpoints; a run that was cut off continues from them.
    """
    deviation = float(np.std(latents))
    require(
        0.5 < deviation < 2,
        "Latents must be normalized to deviation 1 per channel; got a deviation of "
        f"{deviation:.3g}: measure the tokenizer's statistics and use them.",
    )
    mesh = data_mesh() if mesh is None else mesh
    state, step = generating(config, mesh)
    arrays = {"latents": latents, "label": labels}

    def labeled(first: int) -> Iterator[Latents]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first
        ):
            yield Latents(batch["latents"], batch["label"])

    state = run(
        state, step, labeled,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
    )  # fmt: skip
    return state.teacher


def generating(config: GenerateConfig, mesh: Mesh) -> tuple[TrainState, Step]:
    """The first state of a generator's training, and its compiled step."""
    model_key, run_key = jr.split(jr.key(config.seed))
    # One compilation in place of hundreds of small ones.
    student = eqx.filter_jit(lambda key: DiT(config.dit, key=key))(model_key)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = TrainState.start(
        student, copied(student), FixedWeights({"flow": 1.0}), optimizer, key=run_key
    )
    state = placed(state, mesh, config.sharding)
    step = make_step(
        state,
        generate_objective(config),
        optimizer,
        mesh,
        momentum=lambda step: jnp.asarray(config.ema_decay, jnp.float32),
        followed=lambda student: student,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
    )
    return state, step
