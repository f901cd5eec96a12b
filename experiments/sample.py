"""Draws images with a trained generator: a folder of PNG, a grid, an .npz for ADM.

    python experiments/sample.py --tokenizer DIR --generator DIR --out samples
    python experiments/sample.py --tokenizer DIR --generator DIR --out guided \
        --guidance 10 --guidance-start 0.1 --guided-channels 3 --time-shift 0.3 --npz
    python experiments/sample.py --tokenizer DIR --generator DIR --out auto \
        --guidance 2 --weaker earlier.safetensors
    python experiments/sample.py --tokenizer DIR --generator DIR --out few \
        --num-samples 16 --classes 207 360 --solver dopri5 --time-shift 0
    python experiments/sample.py --smoke

Image `i` is the same on any number of devices, among any number of images, and where
the command was killed and given again, which continues; `--group-size` alone changes
its last bits. `samples.json` tells what made the images; `evaluate.py gfid` reads both.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import sys
import tempfile
import time

import jax
import numpy as np
from rich.console import Console
import tyro

from vtp_eqx.config import SampleConfig, SamplerConfig
from vtp_eqx.conversion import small_models
from vtp_eqx.evaluation.console import progress
from vtp_eqx.files import require_local_fields
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.runs.command import exit_with_message, RUN_ERRORS
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.runs.sample import choose_labels, sample
from vtp_eqx.runs.sample_files import read_classes, read_images, write_archive
from vtp_eqx.tokenizer import latents_hash, load, save


# The protocol of the paper's table 2: 50,000 images, 249 steps of Euler, no guidance.
CONFIG = SampleConfig()
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Which networks draw, what, and where to."""

    tokenizer: str
    """A folder or file, ours or published, or a name on the hub."""
    generator: Path
    """A generator trained on that tokenizer's latents: its file, or a folder of it."""
    out: Path
    """The folder that images go to; its grid goes beside it."""
    weaker: Path | None = None
    """An earlier or smaller generator that guidance leads away from."""
    classes: tuple[int, ...] = ()
    """The classes of the images, again from the first where they end."""
    classes_file: Path | None = None
    """The same from a file, one a line, in place of `classes`."""
    npz: bool = False
    """Write samples.npz too, as ADM's evaluator reads it."""
    grid: int = 64
    """The first so many images become one picture; 0 makes none."""
    devices: int | None = None
    """How many to use; by default all."""
    distributed: bool = False
    """One of several processes, as the cluster's environment says."""
    config: SampleConfig = CONFIG


def main(options: Options) -> None:
    """Samples, and writes what else is asked for."""
    require_local_fields(options)
    config, given = options.config, None
    if options.distributed:
        jax.distributed.initialize()
    if options.classes or options.classes_file:
        named = options.classes_file and read_classes(options.classes_file)
        given = np.array(options.classes, np.int64) if named is None else named
        config = dataclasses.replace(config, labels="given")
    if options.weaker is not None:
        sampler = dataclasses.replace(config.sampler, guide="generator")
        config = dataclasses.replace(config, sampler=sampler)
    tokenizer = load(options.tokenizer)
    generator = load_generator(options.generator, tokenizer)
    weaker = options.weaker and load_generator(options.weaker, tokenizer)
    started = time.monotonic()
    with progress(console) as report:
        sample(
            config, generator, tokenizer, options.out, guide=weaker, given=given,
            mesh=data_mesh(options.devices), report=report,
        )  # fmt: skip
    if not is_main_process():
        return
    count, seconds = config.num_samples, time.monotonic() - started
    console.print(f"{count} images in {options.out}, after {seconds:.1f} s")
    if options.grid > 0:
        path = options.out.with_name(f"{options.out.name}-grid.png")
        first = read_images(options.out, range(min(options.grid, count)))
        save_grid(np.stack(first), path, columns=8)
        console.print(f"Grid of the first {len(first)}: {path}")
    if options.npz:
        labels = choose_labels(config, generator.dit.config.num_classes, given)
        console.print(f"Archive: {write_archive(options.out, labels[:count])}")


def smoke() -> None:
    """Every way to sample, from small networks made here."""
    tokenizer, generator = small_models()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(tokenizer, folder / "tokenizer")
        for name, scale in (("early", 0.5), ("late", 1.0)):
            dit = jax.tree.map(lambda leaf, by=scale: by * leaf, generator.dit)
            bound = Generator(dit, latents_hash(tokenizer))
            save_generator(bound, folder / f"{name}.safetensors")
        of = Options(
            tokenizer=str(folder / "tokenizer"), out=folder,
            generator=folder / "late.safetensors",
        )  # fmt: skip
        few = SamplerConfig(num_steps=4)
        interval = SamplerConfig(
            num_steps=4, guidance=3, guidance_start=0.1, guided_channels=3
        )
        auto = SamplerConfig(solver="heun", num_steps=4, guidance=2)
        adaptive = SamplerConfig(solver="dopri5", time_shift=0)
        for name, more, sampler in (
            ("euler", dict(npz=True), few),
            ("guided", dict(classes=(1, 3)), interval),
            ("auto", dict(weaker=folder / "early.safetensors"), auto),
            ("dopri5", {}, adaptive),
        ):
            config = SampleConfig(num_samples=10, group_size=4, sampler=sampler)
            main(dataclasses.replace(of, out=folder / name, config=config, **more))


if __name__ == "__main__":
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        if sys.argv[1:] == ["--smoke"]:
            smoke()
        else:
            plain = (tyro.conf.OmitArgPrefixes,)
            main(tyro.cli(Options, description=__doc__, config=plain))
