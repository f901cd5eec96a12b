"""Encoding and decoding, beside the published PyTorch model of the same weights.

    python -m benchmarks.published_torch --published CLONE --torch-python PYTHON

CLONE is a clone of MiniMax-AI/VTP and PYTHON an interpreter with torch and what that
code imports. Weights are random: speed does not depend on them. Each row is a process
of its own that loads the same file in the published layout; they run one after the
other, in both orders, since a machine may be slower once it is warm or not alone.

Each process also times a plain matrix product, the size of a block's largest: what this
machine has to give. FLOPs of encoding and decoding are `2 * parameters * tokens`; the
products of attention are work too, but do not count.
"""

import dataclasses
import json
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any, Literal

import equinox as eqx
import jax.random as jr
import numpy as np
import tyro

from benchmarks.table import print_table
from vtp_eqx import config
from vtp_eqx.tokenizer import save_published, Tokenizer
from vtp_eqx.training.parameter_counts import num_parameters


SIZES = {"small": config.VTP_S, "base": config.VTP_B, "large": config.VTP_L}
CODING = Path(__file__).parent / "published_code" / "coding.py"
ORDER = ("ours", "torch", "torch", "ours")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare."""

    published: Path
    """A clone of the published code."""
    torch_python: Path
    """The Python that has torch and what the published code imports."""
    size: Literal["small", "base", "large"] = "base"
    batch_size: int = 8
    repeats: int = 7
    """Runs whose median counts, after the first."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        measured, outputs = measure(options, Path(scratch))
    speeds = [options.batch_size / (row["encode"] + row["decode"]) for row in measured]
    flops = _flops(options)
    rows = [
        (
            f"{place}. {side}, {row['version']}",
            f"{row['first']:.1f}",
            f"{row['encode'] * 1e3:.0f}",
            f"{row['decode'] * 1e3:.0f}",
            f"{speed:.2f}",
            f"{row['loaded']:.0f}",
            f"{row['peak']:.0f}",
            f"{row['product_rate'] / 1e9:.0f}",
            *(f"{work / row[part] / row['product_rate']:.2f}" for part, work in flops),
        )
        for place, (side, row, speed) in enumerate(
            zip(ORDER, measured, speeds, strict=True), start=1
        )
    ]
    columns = ("process", "first calls s", "encode ms", "decode ms", "images/s")
    title = f"VTP {options.size}, 256 x 256, batch of {options.batch_size}, float32"
    memory, rates = ("MiB loaded", "MiB peak"), ("product GFLOP/s", "encode", "decode")
    print_table(title, (*columns, *memory, *rates), rows)
    print("\nThe last two columns are shares of the rate of the plain product.")
    ours_first, torch_first = speeds[0] / speeds[1], speeds[3] / speeds[2]
    print(
        f"\nImages/s of ours by torch's: {ours_first:.2f} where ours ran first, "
        f"{torch_first:.2f} where torch did."
    )
    for name in outputs["ours"]:
        apart = np.abs(outputs["ours"][name] - outputs["torch"][name]).max()
        spread = outputs["torch"][name].std()
        print(f"Largest difference of {name}: {apart:.1e} (deviation {spread:.2f}).")


def measure(
    options: Options, scratch: Path
) -> tuple[list[dict[str, Any]], dict[str, dict[str, np.ndarray]]]:
    """What each process of `ORDER` measured, and what each side computed."""
    checkpoint, pixels = scratch / "checkpoint", scratch / "pixels.npy"
    # Nothing here reads texts.
    shape = dataclasses.replace(SIZES[options.size], text=None)
    save_published(eqx.filter_jit(Tokenizer)(shape, key=jr.key(0)), checkpoint)
    size = shape.image_size
    images = jr.uniform(jr.key(1), (options.batch_size, size, size, 3))
    np.save(pixels, np.asarray(images))
    pythons = {"ours": sys.executable, "torch": options.torch_python}
    measured, outputs = [], {}
    for side in ORDER:
        found = scratch / f"{side}.npz"
        command = [
            pythons[side], CODING, side, options.published, checkpoint, pixels,
            found, options.repeats,
        ]  # fmt: skip
        done = subprocess.run(
            [str(word) for word in command], check=True, stdout=subprocess.PIPE
        )
        measured.append(json.loads(done.stdout.splitlines()[-1]))
        with np.load(found) as content:
            outputs[side] = dict(content)
    return measured, outputs


def _flops(options: Options) -> list[tuple[str, float]]:
    shape = dataclasses.replace(SIZES[options.size], text=None)
    tokens = options.batch_size * (shape.image_size // shape.patch_size) ** 2
    make = lambda: Tokenizer(shape, key=jr.key(0))
    parameters = {
        "encode": num_parameters(lambda: make().encoder),
        "decode": num_parameters(lambda: make().decoder),
    }
    return [(part, 2.0 * count * tokens) for part, count in parameters.items()]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
