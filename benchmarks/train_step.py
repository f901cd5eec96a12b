"""A training step and sampling of DiT-B, beside the published PyTorch code.

    python -m benchmarks.train_step --published CLONE --torch-python PYTHON

CLONE is a clone of hustvl/LightningDiT and PYTHON an interpreter with torch and what
`models/lightningdit.py` there imports. Latents are 16 x 16 x 64, everything is float32,
weights are the same on both sides. A step is the gradient of the flow loss, AdamW and
the average of the weights; sampling is Euler's method without guidance.

Both sides take turns (`benchmarks.side_by_side`). "At its rate" is how long the matrix
products alone of a step, forward and backward, would take at the rate of a plain one.
"""

import dataclasses
import tempfile

import numpy as np
import tyro

from benchmarks import side_by_side
from benchmarks.published_code import training
from benchmarks.published_code.process import PRODUCT_FLOPS
from benchmarks.table import print_table
from vtp_eqx.config import DiTConfig, Remat
from vtp_eqx.training.flops import forward_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(side_by_side.Options):
    """What to compare."""

    depth: int = 12
    remat: Remat = "none"
    """Of ours; "full" is the published code's checkpointing too."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        words = (f"{scratch}/weights.npz", options.depth, options.batch_size)
        with side_by_side.workers(options, training, *words, options.remat) as workers:
            velocities = [np.asarray(w.ask("velocity")) for w in workers.values()]
            measured = side_by_side.measure(workers, training.PARTS, options.repeats)
            peaks = {side: worker.ask("peak") for side, worker in workers.items()}
    # Of the products of a forward pass over the batch, attention's too.
    shape = DiTConfig(
        width=training.WIDTH, depth=options.depth, num_heads=training.HEADS,
        latent_width=training.CHANNELS, latent_size=training.SIDE,
        num_classes=training.CLASSES,
    )  # fmt: skip
    forward = options.batch_size * forward_flops(shape)
    lines = []
    for side, parts in measured.items():
        rate = PRODUCT_FLOPS / parts["product"]["wall"]
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
    apart = np.abs(velocities[0] - velocities[1]).max()
    spread = velocities[1].std()
    print(f"Largest difference of velocities: {apart:.1e} (deviation {spread:.2f}).")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
