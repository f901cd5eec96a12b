"""Training a diffusion transformer on a tokenizer's latents."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
import numpy as np

from vtp_eqx.config import GenerateConfig, require
from vtp_eqx.data.loader import batches
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.dit import DiT
from vtp_eqx.training.generate_objective import generate_objective, Latents
from vtp_eqx.training.optimizer import make_optimizer
from vtp_eqx.training.run import Progress, run, Step, Watch
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
    state, step = generating(config, mesh)
    arrays = {"latents": latents, "label": labels}

    def labeled(first: int) -> Iterator[Latents]:
        for batch in batches(
            arrays, config.batch_size, seed=config.seed, start_step=first
        ):
            yield Latents(batch["latents"], batch["label"])

    def keep(state: TrainState, done: int) -> dict[str, float]:
        snapshot(done, state.teacher)
        return {}

    state = run(
        state, step, labeled,
        num_steps=config.num_steps, mesh=mesh, folder=folder, progress=progress,
        config=config,
        watch=Watch(evaluate=keep, evaluate_every=max(config.num_steps, 1),
                    evaluate_steps=snapshot_steps),
    )  # fmt: skip
    return state.teacher


def generating(config: GenerateConfig, mesh: Mesh) -> tuple[TrainState, Step]:
    """The first state of a generator's training, and its compiled step."""
    model_key, run_key = jr.split(jr.key(config.seed))
    optimizer = make_optimizer(config.optimizer, config.num_steps)

    @eqx.filter_jit  # one compilation in place of hundreds of small ones
    def start(model_key: PRNGKeyArray, run_key: PRNGKeyArray) -> TrainState:
        student = DiT(config.dit, key=model_key)
        weights = FixedWeights({"flow": 1.0})
        return TrainState.start(
            student, copied(student), weights, optimizer, key=run_key
        )

    state = start(model_key, run_key)
    state = placed(state, mesh, config.sharding)
    step = make_step(
        state,
        generate_objective(config),
        optimizer,
        mesh,
        momentum=lambda step: _ema_decay(config, step),
        followed=lambda student: student,
        accumulate=config.accumulate,
        precision=config.precision,
        sharding=config.sharding,
        spike_factor=config.optimizer.spike_factor,
    )
    return state, step


def _ema_decay(config: GenerateConfig, step: Array) -> Array:
    decay = jnp.asarray(config.ema_decay, jnp.float32)
    if not config.ema_warmup:
        return decay
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
