"""Encoding and decoding, beside the published PyTorch model of the same weights.

    python -m benchmarks.published_torch --published CLONE --torch-python PYTHON

CLONE is a clone of MiniMax-AI/VTP and PYTHON an interpreter with torch and what that
code imports. Weights are random: speed does not depend on them. Both sides load the
same file in the published layout, and take turns (`benchmarks.side_by_side`).

FLOPs of encoding and decoding are `2 * parameters * tokens`; the products of attention
are work too, but do not count.
"""

import dataclasses
from pathlib import Path
import tempfile
from typing import Literal

import equinox as eqx
import jax.random as jr
import numpy as np
import tyro

from benchmarks import side_by_side
from benchmarks.published_code import coding
from benchmarks.published_code.process import PRODUCT_FLOPS
from benchmarks.table import print_table
from vtp_eqx import config
from vtp_eqx.tokenizer import save_published, Tokenizer
from vtp_eqx.training.parameter_counts import decoder_flops, encoder_flops


SIZES = {"small": config.VTP_S, "base": config.VTP_B, "large": config.VTP_L}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(side_by_side.Options):
    """What to compare."""

    size: Literal["small", "base", "large"] = "base"


def main(options: Options) -> None:
    # Nothing here reads texts.
    shape = dataclasses.replace(SIZES[options.size], text=None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_published(eqx.filter_jit(Tokenizer)(shape, key=jr.key(0)), folder)
        images = (options.batch_size, shape.image_size, shape.image_size, 3)
        np.save(folder / "pixels.npy", np.asarray(jr.uniform(jr.key(1), images)))
        with side_by_side.workers(options, coding, folder) as workers:
            loaded = {side: worker.ask("peak") for side, worker in workers.items()}
            measured = side_by_side.measure(workers, coding.PARTS, options.repeats)
            peaks = {side: worker.ask("peak") for side, worker in workers.items()}
            ours, theirs = (np.load(w.ask("outputs")) for w in workers.values())
        outputs = {name: (ours[name], theirs[name]) for name in ours}
    flops = {
        "encode": options.batch_size * encoder_flops(shape, shape.image_size),
        "decode": options.batch_size * decoder_flops(shape),
    }
    rows, speeds = [], {}
    for side, parts in measured.items():
        seconds = {part: parts[part]["wall"] for part in parts}
        speeds[side] = options.batch_size / (seconds["encode"] + seconds["decode"])
        rate = PRODUCT_FLOPS / seconds["product"]
        rows.append(
            (
                f"{side}, {workers[side].version}",
                f"{parts['encode']['first'] + parts['decode']['first']:.1f}",
                *(f"{seconds[part] * 1e3:.0f}" for part in flops),
                f"{speeds[side]:.2f}",
                f"{loaded[side]:.0f}",
                f"{peaks[side]:.0f}",
                f"{rate / 1e9:.0f}",
                *(f"{flops[part] / seconds[part] / rate:.2f}" for part in flops),
            )
        )
    columns = ("process", "first calls s", "encode ms", "decode ms", "images/s")
    title = f"VTP {options.size}, 256 x 256, batch of {options.batch_size}, float32"
    memory, rates = ("MiB loaded", "MiB peak"), ("product GFLOP/s", "encode", "decode")
    print_table(title, (*columns, *memory, *rates), rows)
    print("\nThe last two columns are shares of the rate of the plain product.")
    print(f"\nImages/s of ours by torch's: {speeds['ours'] / speeds['torch']:.2f}.")
    for name, (mine, published) in outputs.items():
        apart, spread = np.abs(mine - published).max(), published.std()
        print(f"Largest difference of {name}: {apart:.1e} (deviation {spread:.2f}).")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
