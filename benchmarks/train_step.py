"""A training step and sampling of DiT-B, beside the published PyTorch code.

    python -m benchmarks.train_step --published CLONE --torch-python PYTHON

CLONE is a clone of hustvl/LightningDiT and PYTHON an interpreter with torch and what
`models/lightningdit.py` there imports. Latents are 16 x 16 x 64, everything is float32,
weights are the same on both sides. A step is the gradient of the flow loss, AdamW and
the average of the weights; sampling is Euler's method without guidance.

Both processes live at the same time and take turns, so that what else the machine does
meets both alike; medians count. Each also times a plain matrix product, the size of a
block's largest: what this machine has to give. "At its rate" is how long the matrix
products alone of a step, forward and backward, would take at that rate.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import tyro

from benchmarks.published_code import training
from benchmarks.table import print_table
from vtp_eqx.config import DiTConfig, Remat
from vtp_eqx.training.flops import forward_flops


PARTS = ("product", "train", "sample")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    published: Path
    """A clone of the published code."""
    torch_python: Path
    """The Python that has torch and what the published code imports."""
    depth: int = 12
    batch_size: int = 8
    repeats: int = 5
    """Turns whose medians count, after the first."""
    remat: Remat = "none"
    """Of ours; "full" is the published code's checkpointing too."""


class Worker:
    """A process that runs what it is asked to, and says how long it took."""

    def __init__(self, command: list[str]):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._answer()

    def ask(self, part: str) -> Any:
        """The answer to `part`, one of the worker's names."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{part}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("The process above ended early: see what it printed.")
        return json.loads(line)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        pythons = {"ours": sys.executable, "torch": str(options.torch_python)}
        workers = {}
        for side, python in pythons.items():
            words = (
                python, "-m", training.__name__, side, options.published,
                f"{scratch}/weights.npz", options.depth, options.batch_size,
                options.remat,
            )  # fmt: skip
            workers[side] = Worker([str(word) for word in words])
            stack.callback(workers[side].close)
        velocities = [np.asarray(w.ask("velocity")) for w in workers.values()]
        measured = measure(workers, options.repeats)
        peaks = {side: worker.ask("peak") for side, worker in workers.items()}
    _print(options, workers, measured, peaks)
    apart = np.abs(velocities[0] - velocities[1]).max()
    spread = velocities[1].std()
    print(f"Largest difference of velocities: {apart:.1e} (deviation {spread:.2f}).")


def measure(
    workers: dict[str, Worker], repeats: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians by side, part and quantity; sides take turns, in both orders."""
    found = {side: {part: [] for part in PARTS} for side in workers}
    for turn in range(repeats + 1):
        sides = list(workers)[:: 1 if turn % 2 else -1]
        for part in PARTS:
            for side in sides:
                found[side][part].append(workers[side].ask(part))
    return {
        side: {part: _medians(runs[1:]) for part, runs in parts.items()}
        for side, parts in found.items()
    }


def product_flops(options: Options) -> float:
    """Of the matrix products of a forward pass over the batch, attention's too."""
    return options.batch_size * forward_flops(
        DiTConfig(
            width=training.WIDTH, depth=options.depth, num_heads=training.HEADS,
            latent_width=training.CHANNELS, latent_size=training.SIDE,
            num_classes=training.CLASSES,
        )
    )  # fmt: skip


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _print(
    options: Options,
    workers: dict[str, Worker],
    measured: dict[str, dict[str, dict[str, float]]],
    peaks: dict[str, float],
) -> None:
    rows, inner, columns = training.PRODUCT
    multiplied = 2.0 * training.NUM_PRODUCTS * rows * inner * columns
    forward = product_flops(options)
    lines = []
    for side, parts in measured.items():
        rate = multiplied / parts["product"]["wall"]
        step, sampling = parts["train"], parts["sample"]
        lines.append(
            (
                f"{side}, {workers[side].version}",
                f"{rate / 1e9:.0f}",
                f"{step['wall']:.2f}",
                f"{3 * forward / rate:.2f}",
                f"{step['busy']:.1f}",
                f"{step['pages'] / 1000:.0f}",
                f"{sampling['wall']:.2f}",
                f"{training.EVALUATIONS * forward / rate:.2f}",
                f"{peaks[side]:.0f}",
            )
        )
    title = (
        f"DiT of width {training.WIDTH} and depth {options.depth}, batch of "
        f"{options.batch_size}, float32, remat {options.remat}"
    )
    names = (
        "process", "product GFLOP/s", "step s", "at its rate", "processor s",
        "thousand pages", f"{training.EVALUATIONS} evaluations s", "at its rate",
        "MiB peak",
    )  # fmt: skip
    print_table(title, names, lines)
    speeds = [
        measured["torch"][part]["wall"] / measured["ours"][part]["wall"]
        for part in ("train", "sample")
    ]
    print(
        f"\nOurs has {speeds[0]:.2f} of torch's speed in training, {speeds[1]:.2f} in "
        "sampling."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
