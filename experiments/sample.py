"""Draws images with a trained generator: a folder of PNG, a grid, an .npz for ADM.

    python experiments/sample.py --tokenizer DIR --generator DIR --out samples
    python experiments/sample.py --tokenizer DIR --generator DIR --out guided \
        --guidance 10 --guidance-start 0.1 --guided-channels 3 --time-shift 0.3 --npz
    python experiments/sample.py --tokenizer DIR --generator DIR --out auto \
        --guidance 2 --weaker earlier.safetensors
    python experiments/sample.py --tokenizer DIR --generator DIR --out few \
        --num-samples 16 --classes 207 360 --solver dopri5 --time-shift 0
    python experiments/sample.py --generator DIR --guidance 3 \
        --prompt "a small red star on a dotted background" --prompt "a blue circle"
    python experiments/sample.py --smoke

Image `i` is the same on any number of devices, among any number of images, and where
the command was killed and given again, which continues; `--group-size` alone changes
its last bits. `samples.json` tells what made the images, with the prompt of each where
there are prompts; `evaluate.py gfid` reads both.
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
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation.console import progress
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import text_hash
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.runs.captions import open_prompts, save_words
from vtp_eqx.runs.command import exit_with_message, RUN_ERRORS
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.runs.sample import choose_labels, sample
from vtp_eqx.runs.sample_files import read_images, write_archive
from vtp_eqx.runs.sample_options import SampleOptions
from vtp_eqx.tokenizer import latents_hash, load, save


COLUMNS = 8  # of the grid, or one a prompt where there are fewer
console = Console(width=None if sys.stdout.isatty() else 120)


def main(options: SampleOptions) -> None:
    """Samples, and writes what else is asked for."""
    if options.distributed:
        jax.distributed.initialize()
    tokenizer = load(options.where)
    generator = load_generator(options.generator, tokenizer)
    weaker = options.weaker and load_generator(options.weaker, tokenizer)
    prompts = open_prompts(
        options.prompt, options.prompts_file, generator, tokenizer,
        options.generator, Path(options.where),
    )  # fmt: skip
    config, given = options.choices(prompts)
    started = time.monotonic()
    with progress(console) as report:
        sample(
            config, generator, tokenizer, options.out, guide=weaker, given=given,
            prompts=prompts, mesh=data_mesh(options.devices), report=report,
        )  # fmt: skip
    if not is_main_process():
        return
    count, seconds = config.num_samples, time.monotonic() - started
    console.print(f"{count} images in {options.out}, after {seconds:.1f} s")
    if options.grid > 0:
        path = options.out.with_name(f"{options.out.name}-grid.png")
        first = read_images(options.out, range(min(options.grid, count)))
        columns = COLUMNS if prompts is None else len(prompts.texts)
        columns = columns if 1 < columns < COLUMNS else COLUMNS
        save_grid(np.stack(first), path, columns=columns)
        console.print(f"Grid of the first {len(first)}: {path}")
    if options.npz:
        num_choices = (
            generator.dit.config.num_classes if prompts is None else len(prompts.texts)
        )
        labels = choose_labels(config, num_choices, given)
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
        of = SampleOptions(
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
        smoke_of_prompts(folder / "text", SampleConfig(sampler=interval, group_size=4))


def smoke_of_prompts(folder: Path, config: SampleConfig) -> None:
    """Images of two prompts, from a generator of captions and what lies beside it."""
    tokenizer, generator = small_models(
        300, condition="text", text_context=8, text_width=24
    )
    save(tokenizer, folder / "tokenizer")
    save_words(train_tokenizer(["a red star"], 300), folder)
    bound = Generator(generator.dit, latents_hash(tokenizer), text_hash(tokenizer))
    save_generator(bound, folder / "generator.safetensors")
    two = ("a red star", "a star")
    main(SampleOptions(generator=folder, out=folder / "out", prompt=two, config=config))


if __name__ == "__main__":
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        if sys.argv[1:] == ["--smoke"]:
            smoke()
        else:
            plain = (tyro.conf.OmitArgPrefixes,)
            main(tyro.cli(SampleOptions, description=__doc__, config=plain))
