"""A run: steps from wherever it stopped to its end, with a log and checkpoints."""

from collections.abc import Callable, Iterator
import json
from pathlib import Path
import time
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from vtp_eqx.mesh import on_mesh, split
from vtp_eqx.training.checkpoint import Checkpoints
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import require_finite


Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]
Progress = Callable[[int, int, dict[str, float]], None]


def run(
    state: TrainState,
    step: Step,
    batches: Callable[[int], Iterator[Any]],
    *,
    num_steps: int,
    mesh: Mesh,
    folder: Path,
    log_every: int = 50,
    save_every: int = 1000,
    progress: Progress = lambda step, num_steps, metrics: None,
) -> TrainState:
    """The state after `num_steps` steps. Running it again continues where it stopped.

    - `batches(first)` yields the batches from step `first` on.
    - `folder` receives `metrics.jsonl` and `checkpoints/`.
    - `progress(done, num_steps, metrics)` is called whenever a line is logged.

    Raises `FloatingPointError` when a logged term is not finite; no checkpoint is
    written behind a step that was not looked at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = on_mesh(state, mesh)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        first = int(state.step)
        log = _Log(folder / "metrics.jsonl", first)
        source = batches(first)
        for done in range(first + 1, num_steps + 1):
            state, metrics = step(state, split(next(source), mesh))
            is_last, saves = done == num_steps, done % save_every == 0
            if done % log_every == 0 or is_last or saves or done == first + 1:
                values = {name: float(value) for name, value in metrics.items()}
                require_finite(values, done)
                log.write(done, values)
                progress(done, num_steps, values)
            if saves or is_last:
                checkpoints.save(state)
    return state


class _Log:
    """`metrics.jsonl`: a JSON object a line, with `step` and `seconds` since start."""

    def __init__(self, path: Path, first: int):
        self._path, self._start = path, time.monotonic()
        # Lines behind the restored step belong to work that will be done again.
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= first]
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        line = json.dumps({"step": step, "seconds": seconds, **metrics})
        with self._path.open("a") as file:
            file.write(line + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a crash: drop it
