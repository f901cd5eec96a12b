"""The log of a run: `metrics.jsonl` and optional sinks."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import importlib
import json
from math import inf
from pathlib import Path
import secrets
import sys
import time
from typing import Any

from vtp_eqx.config.old_names import LOG_KEYS
from vtp_eqx.files import write_text


Sink = Callable[[int, Mapping[str, float]], None]


class Log:
    """`metrics.jsonl`: a JSON object a line, with `step` and `seconds` since start."""

    def __init__(self, path: Path | None, first: int, sinks: Sequence[Sink] = ()):
        """Lines after step `first` are dropped: that work will be done again.

        Without a `path`, as in all processes but one, nothing is written.
        """
        self._path, self._start, self._sinks = path, time.monotonic(), list(sinks)
        self.rewind(first)

    def rewind(self, first: int) -> None:
        """Drops the lines after step `first`."""
        if self._path is None:
            return
        kept = [line for line in _lines(self._path) if _step_of(line) <= first]
        # Also where the last line is whole but for its end, which the next would join.
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line."""
        if self._path is not None:
            seconds = round(time.monotonic() - self._start, 3)
            with self._path.open("a") as file:
                line = {"step": step, "seconds": seconds, **metrics}
                file.write(json.dumps(line) + "\n")

    def call_sinks(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes a line to the sinks.

        A sink that fails is dropped with a warning: it must not end the run.
        """
        for sink in list(self._sinks):
            try:
                sink(step, metrics)
            except Exception as error:
                self._sinks.remove(sink)
                warn(
                    f"A sink of the log failed and is dropped from step {step} on: "
                    f"{type(error).__name__}: {error}"
                )


def warn(text: str) -> None:
    """Prints to standard error, if that is still open."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def read_log(path: Path) -> list[dict[str, float]]:
    """The complete lines of a `metrics.jsonl`, also of one with former names."""
    whole = [json.loads(line) for line in _lines(path) if _step_of(line) < inf]
    return [
        {LOG_KEYS.get(name, name): value for name, value in line.items()}
        for line in whole
    ]


def tensorboard_sink(folder: Path) -> Sink:
    """Scalars for TensorBoard in `folder`; needs `pip install 'vtp_eqx[tensorboard]'`.

    Steps that are done again after a crash replace what was written of them.
    """
    tensorboard = _extra("tensorboardX", "tensorboard")
    writers: list[Any] = []

    def write(step: int, metrics: Mapping[str, float]) -> None:
        if not writers:
            writers.append(tensorboard.SummaryWriter(str(folder), purge_step=step))
        for name, value in metrics.items():
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    return write


def wandb_sink(project: str, folder: Path, config: Mapping[str, Any]) -> Sink:
    """Lines for Weights & Biases; needs `pip install 'vtp_eqx[wandb]'`.

    The run's id is kept in `folder`, so that the same command continues it, and no
    other run has it: names of folders repeat.
    """
    wandb, path = _extra("wandb", "wandb"), folder / "wandb_id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(8) + "\n")
    run = wandb.init(
        project=project, id=path.read_text().strip(), name=folder.resolve().name,
        dir=str(folder), config=dict(config), resume="allow",
    )  # fmt: skip
    return lambda step, metrics: run.log(dict(metrics), step=step)


def _extra(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"This log is written by {package}; got no such package: install it with "
            f"`pip install 'vtp_eqx[{extra}]'`."
        ) from error


def _step_of(line: str) -> float:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return inf  # a line cut short by a crash: drop it
    return step if type(step) in (int, float) else inf


def _lines(path: Path) -> list[str]:
    # A disk may have left any bytes: their line is dropped, and no other.
    return path.read_text(errors="replace").splitlines() if path.exists() else []
