"""Pre-trains a tokenizer on captioned images, for an hour or for weeks.

    python experiments/pretrain.py                        # scenes, 2 CPU cores
    python experiments/pretrain.py laptop --out runs/tars --data 'data/scenes/*.tar'
    python experiments/pretrain.py B --out runs/b --data cc12m datacomp --weights 1 9 \
        --validation imagenet/val --classes names.txt --dry-run
    python experiments/pretrain.py VA-VAE-B --out runs/va-vae --data 'cc12m/*.tar' \
        --vision dinov2_vitl14_pretrain.pth --perceptual vgg16-397923af.pth vgg.pth
    python experiments/pretrain.py --replay runs/b/postmortem/step-812-batch-811
    python experiments/pretrain.py --smoke

Presets are `laptop`, `S`, `B`, `L`, `S-1-gpu`, `S-8-gpus`, `B-8-gpus`, and `VA-VAE-B`
and `VA-VAE-laptop`, which learn from a frozen network (`--vision`: a DINOv2, or any
tokenizer); `--help` after one lists its values, each an option. Data are tars of pairs,
prepared data sets of TensorFlow Datasets, or folders of images; by default the scenes.
The same command again continues where the run was, bit for bit. Exit status: 0 at the
end of the run, 143 where SIGTERM ended it with its state saved, 75 where it stalled
(with `--exit-on-stall`), 2 where an option is none, and 1 with a sentence else.
A run's folder has config.json, data.txt, metrics.jsonl, checkpoints, figures,
report.md, and at the end tokenizer and card.json. Failures are in bad_examples-*.jsonl
(examples), postmortem (steps, for `--replay`), corruption (steps that had two results,
with `--config.recompute-every`) and stalls.txt.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
import os
from pathlib import Path
import shlex
import sys
import tempfile

import jax

from vtp_eqx.config import presets
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.mesh import gather_to_host
from vtp_eqx.runs.command import exit_with_message, preset_options, RUN_ERRORS
from vtp_eqx.runs.loop import run_training
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.pretrain import PCA_IMAGES
from vtp_eqx.runs.pretrain_options import PretrainOptions
from vtp_eqx.runs.pretrain_results import pretrain_callbacks, write_results
from vtp_eqx.runs.pretrain_setup import (
    open_pretraining,
    PretrainSetup,
    replay_pretraining,
)
from vtp_eqx.runs.throughput import print_progress, throttled_print
from vtp_eqx.study.methods import METHODS
from vtp_eqx.study.recipe import pretrain_config, RECIPES
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.pretrain import init_pretraining


LAPTOP = dataclasses.replace(
    pretrain_config(RECIPES["laptop"], METHODS["VTP"], 0),
    num_steps=14_000,  # half an hour on one core
)
VA_VAE_LAPTOP = dataclasses.replace(
    pretrain_config(RECIPES["laptop"], METHODS["VA-VAE"], 0), num_steps=LAPTOP.num_steps
)
STORED = 384  # ours: of 256 pixels, small crops would be enlarged, large ones blurred
PRESETS = {
    name: (text, PretrainOptions(config=config, load_size=load_size))
    for name, text, config, load_size in (
        ("laptop", "A small tokenizer of 32 pixels, for CPUs.", LAPTOP, None),
        ("S", "VTP-S as released: batch 32k.", presets.PRETRAIN_S, STORED),
        ("B", "VTP-B as released.", presets.PRETRAIN_B, STORED),
        ("L", "VTP-L as released.", presets.PRETRAIN_L, STORED),
        ("S-ablation", "The paper's studies.", presets.PRETRAIN_S_ABLATION, STORED),
        ("B-ablation", "The same of size B.", presets.PRETRAIN_B_ABLATION, STORED),
        ("L-ablation", "The same of size L.", presets.PRETRAIN_L_ABLATION, STORED),
        ("S-1-gpu", "VTP-S on 1e8 pairs, one GPU.", presets.PRETRAIN_S_1_GPU, STORED),
        ("S-8-gpus", "VTP-S on 4e8 pairs, eight.", presets.PRETRAIN_S_8_GPUS, STORED),
        ("B-8-gpus", "VTP-B on 4e8 pairs, eight.", presets.PRETRAIN_B_8_GPUS, STORED),
        ("VA-VAE-B", "VA-VAE, as large as VTP-B.", presets.VA_VAE_B, STORED),
        ("VA-VAE-laptop", "As the laptop's, of VA-VAE.", VA_VAE_LAPTOP, None),
    )
}


def pretrain(options: PretrainOptions) -> None:
    """Trains to the end, or prints what that would take."""
    if options.distributed:
        with exit_with_message(ValueError):
            jax.distributed.initialize()
    # A run that is continued, or follows its dry run, compiles nothing anew.
    cache = Path(options.out).parent / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    with open_pretraining(options, load) as setup:
        if not options.dry_run:
            train(setup)


def train(setup: PretrainSetup) -> None:
    """All remaining steps, then the tokenizer with its statistics, card and report."""
    options, config, out, mesh = setup.options, setup.config, setup.out, setup.mesh
    images = setup.probe_images.image[:PCA_IMAGES]
    state, step = init_pretraining(config, images, mesh, setup.perceptual, setup.vision)
    state = run_training(
        state, step, setup.batches,
        num_steps=config.num_steps, mesh=mesh, folder=out, progress=print_progress,
        log_every=options.log_every, save_every=options.save_every,
        fault_tolerance=options.fault_tolerance, callbacks=pretrain_callbacks(setup),
        holds_folder=True, recompute_every=config.recompute_every,
    )  # fmt: skip
    tokenizer, sums = measure_latents(  # by all processes, as `gather_to_host`
        gather_to_host(state.student.tokenizer), setup.train, out, mesh=mesh,
        max_images=options.latent_images, num_threads=options.workers,
        progress=throttled_print("latents measured: {} of {}"),
    )  # fmt: skip
    if is_main_process():
        save(tokenizer, out / "tokenizer")
        write_results(
            setup, tokenizer, latents_of=sums.coverage(len(setup.train)),
            command=shlex.join(["python", *sys.argv]),
        )  # fmt: skip
        print(f"Tokenizer: {out / 'tokenizer'}\nReport: {out / 'report.md'}")


def smoke() -> None:
    """A tiny run, and the same command again, which finds it ended."""
    config = pretrain_config(RECIPES["smoke"], METHODS["VTP"], 0)
    with tempfile.TemporaryDirectory() as scratch:
        options = PretrainOptions(
            config=config, out=f"{scratch}/run", num_scenes=480, num_eval=96,
            log_every=2, save_every=2, evaluate_every=4, workers=2, devices=1,
        )  # fmt: skip
        pretrain(options)
        pretrain(options)
        assert (Path(options.out) / "report.md").exists()


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--smoke"]:
        smoke()
    elif arguments[:1] == ["--replay"] and len(arguments) == 2:
        if "JAX_PLATFORMS" not in os.environ:
            jax.config.update("jax_platforms", "cpu")
        replay_pretraining(Path(arguments[1]), load)
    else:
        pretrain(preset_options(PRESETS, __doc__))


if __name__ == "__main__":
    with exit_with_message(*RUN_ERRORS):
        main()
