"""Trains LightningDiT on a tokenizer's latents, for minutes or for days.

    python experiments/train_generator.py --latents runs/latents          # 2 CPU cores
    python experiments/train_generator.py XL-on-L --latents latents --out runs/xl
    python experiments/train_generator.py B --latents vavae/latents --tokenizer vavae
    python experiments/train_generator.py laptop --config.dit.condition text
    python experiments/train_generator.py XL --dry-run
    python experiments/train_generator.py --smoke

Presets are `laptop`, and `S`, `B`, `XL` and `1B` as published for latents of VTP-S and
VTP-B, or with `-on-L` for those of VTP-L; `--help` after one lists its values, each an
option. Latents are a folder of extract_latents.py or of LightningDiT's extractor; with
`--data`, images are encoded in every step instead. `--config.dit.condition text` has
captions in place of classes (see extract_latents.py). Where bfloat16 ends in NaN, try
`--config.dit.qk-norm` and `--config.dit.float32-logits`.

The same command again continues where the run was, bit for bit; exit status as of
pretrain.py. A run's folder has config.json, data.txt, metrics.jsonl, checkpoints, and
at the end generator.safetensors and the tokenizer that decodes what it generates.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import shutil
import sys
import tempfile

import equinox as eqx
import jax

from vtp_eqx.config import LatentsConfig, presets
from vtp_eqx.conversion import small_models
from vtp_eqx.data.sources import TfdsSource
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash, text_hash
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.runs.captions import fit_to_text, save_words, text_config_of
from vtp_eqx.runs.command import exit_with_message, preset_options, RUN_ERRORS
from vtp_eqx.runs.dry_run import generator_dry_run_lines
from vtp_eqx.runs.extract_latents import extract_latents, open_latents
from vtp_eqx.runs.generator_setup import (
    BESIDE,
    fit_to_cache,
    GeneratorOptions,
    open_generator_training,
)
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.throughput import print_progress
from vtp_eqx.runs.train_generator import train_on_batches
from vtp_eqx.scenes.render import SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes
from vtp_eqx.tokenizer import load, save


PRESETS = {
    name: (text, GeneratorOptions(config=config))
    for name, text, config in (
        ("laptop", "A small one, for CPUs.", presets.GENERATE_LAPTOP),
        ("S", "DiT-S on latents of VTP-S or B.", presets.GENERATE_S),
        ("B", "LightningDiT-B on latents of VTP-S or B.", presets.GENERATE_B),
        ("XL", "LightningDiT-XL on latents of VTP-S or B.", presets.GENERATE_XL),
        ("1B", "LightningDiT-1.0B on latents of VTP-S or B.", presets.GENERATE_1B),
        ("B-on-L", "LightningDiT-B, of VTP-L.", presets.GENERATE_B_ON_L),
        ("XL-on-L", "LightningDiT-XL, of VTP-L.", presets.GENERATE_XL_ON_L),
        ("1B-on-L", "LightningDiT-1.0B, of VTP-L.", presets.GENERATE_1B_ON_L),
    )
}


def train(options: GeneratorOptions) -> None:
    """Trains to the end, or prints what that would take."""
    if options.distributed:
        jax.distributed.initialize()
    if options.dry_run:
        print("\n".join(dry_run(options)))
        return
    out = Path(options.out)
    # A run that is continued compiles nothing anew.
    jax.config.update("jax_compilation_cache_dir", str(out.parent / "compiled"))
    with open_generator_training(options, load) as setup:
        dit = train_on_batches(
            setup.config, setup.batches, folder=out, mesh=setup.mesh,
            log_every=options.log_every, save_every=options.save_every,
            evaluate=setup.evaluate, evaluate_every=options.evaluate_every,
            fault_tolerance=options.fault_tolerance, holds_folder=True,
            progress=print_progress,
        )  # fmt: skip
        if is_main_process():
            text = text_hash(setup.tokenizer) if setup.words else ""
            generator = Generator(dit, latents_hash(setup.tokenizer), text)
            save_generator(generator, out / "generator.safetensors")
            save_words(setup.words, out)
            save(setup.tokenizer, out / "tokenizer")
            print(f"Generator: {out / 'generator.safetensors'}")


def dry_run(options: GeneratorOptions) -> list[str]:
    """What the run will take, a line each; of its latents where they are there."""
    config, count = options.config, None
    if options.latents and Path(options.latents).exists():
        latents = open_latents(Path(options.latents))
        config = fit_to_cache(config, latents, unconditional=options.unconditional)
        count = len(latents)
        if config.dit.condition == "text":
            where = options.tokenizer or str(Path(options.latents) / BESIDE)
            config = fit_to_text(config, text_config_of(load(where), where))
    return generator_dry_run_lines(config, data_mesh(options.devices), count)


def smoke() -> None:
    """A tiny tokenizer, its latents, 20 steps, and the last 10 again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, latents = Path(scratch), Path(scratch) / "latents"
        scenes = SceneConfig(size=32, num_train=240, num_validation=24)
        source = TfdsSource(prepare_scenes(scenes, folder / "scenes"), "train")
        tokenizer, _ = extract_latents(
            LatentsConfig(dtype="uint8", shard_images=100), small_models()[0], source,
            latents, mesh=data_mesh(1),
        )  # fmt: skip
        save(tokenizer, latents / "tokenizer")
        laptop = presets.GENERATE_LAPTOP
        optimizer = dataclasses.replace(laptop.optimizer, warmup_steps=5)
        config = dataclasses.replace(
            laptop, optimizer=optimizer, num_steps=20, batch_size=16
        )
        options = GeneratorOptions(
            config=config, latents=str(latents), out=str(folder / "run"), devices=1,
            log_every=10, save_every=10,
        )  # fmt: skip
        train(options)
        saved = folder / "run" / "generator.safetensors"
        before = load_generator(saved)
        shutil.rmtree(folder / "run" / "checkpoints" / "20")
        train(options)
        assert eqx.tree_equal(load_generator(saved), before)
        print("The last 10 steps were equal, bit for bit.")


def main() -> None:
    if sys.argv[1:] == ["--smoke"]:
        return smoke()
    train(preset_options(PRESETS, __doc__))


if __name__ == "__main__":
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        main()
