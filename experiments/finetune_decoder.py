"""Fine-tunes a tokenizer's decoder against a discriminator (stage two).

    python experiments/finetune_decoder.py --tokenizer runs/pretrain --data data/scenes
    python experiments/finetune_decoder.py RAE --tokenizer MiniMaxAI/VTP-Large-f16d64 \
        --data imagenet/train --perceptual vgg16-397923af.pth vgg.pth \
        --vision dinov2_vits14_reg4_pretrain.pth --out runs/stage_two
    python experiments/finetune_decoder.py --smoke

Encoder, bottleneck and latent statistics stay as they are: generators of the latents
stay valid, and give sharper images. Presets are `laptop`; `RAE`, a discriminator that
sees with a frozen network (`--vision`, a DINOv2 or any tokenizer); `RAE-latents`, for
the decoder of adapt_encoder.py, which has learned nothing; and `VA-VAE`, a PatchGAN.
`--help` after one lists its values, each an option; with `--config.latent-noise` the
decoder learns to forgive a generator.

The log has the losses of both networks, the adaptive weight and the norms of gradients;
a collapse is a warning on standard error. The same command again continues where the
run was, bit for bit; exit status as of pretrain.py. A run's folder has config.json,
data.txt, metrics.jsonl, checkpoints, figures, and at the end the tokenizer.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import shutil
import sys
import tempfile

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from vtp_eqx.config import presets, TokenizerConfig, VIT_FEMTO
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.runs.command import exit_with_message, preset_options, RUN_ERRORS
from vtp_eqx.runs.finetune_decoder import finetune_decoder
from vtp_eqx.runs.finetune_setup import (
    dry_run_lines,
    FinetuneOptions,
    open_finetuning,
)
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.throughput import print_progress
from vtp_eqx.scenes.render import render, SceneConfig, write_folders
from vtp_eqx.tokenizer import load, save, Tokenizer


PRESETS = {
    name: (text, FinetuneOptions(config=config))
    for name, text, config in (
        ("laptop", "A small one, for CPUs.", presets.FINETUNE_LAPTOP),
        ("RAE", "The discriminator sees with a frozen network.", presets.FINETUNE_RAE),
        ("RAE-latents", "And latents are noisy.", presets.FINETUNE_RAE_LATENTS),
        ("VA-VAE", "The discriminator is a PatchGAN.", presets.FINETUNE_VA_VAE),
    )
}


def finetune(options: FinetuneOptions) -> None:
    """Trains to the end, or prints what that would take."""
    if options.distributed:
        jax.distributed.initialize()
    if options.dry_run:
        print("\n".join(dry_run_lines(options, load)))
        return
    out = Path(options.out)
    # A run that is continued compiles nothing anew.
    jax.config.update("jax_compilation_cache_dir", str(out.parent / "compiled"))
    with open_finetuning(options, load) as setup:
        tokenizer = finetune_decoder(
            options.config, setup.tokenizer, setup.batches, folder=out, mesh=setup.mesh,
            perceptual=setup.perceptual, vision=setup.vision,
            evaluate=setup.evaluate, evaluate_every=options.evaluate_every,
            log_every=options.log_every, save_every=options.save_every,
            fault_tolerance=options.fault_tolerance, holds_folder=True,
            progress=print_progress,
        )  # fmt: skip
        if is_main_process():
            save(tokenizer, out / "tokenizer")
            print(f"Tokenizer: {out / 'tokenizer'}")


def smoke() -> None:
    """A tiny tokenizer, 12 steps, and the last 6 again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folders(render(SceneConfig(), np.arange(48)), folder / "scenes")
        shape = TokenizerConfig(encoder=VIT_FEMTO, decoder=VIT_FEMTO, image_size=32)
        tokenizer = eqx.filter_jit(Tokenizer)(shape, key=jr.key(0))
        ones = np.ones(shape.latent_width, np.float32)
        save(tokenizer.with_statistics(ones, ones), folder / "tokenizer")
        laptop = presets.FINETUNE_LAPTOP
        config = dataclasses.replace(
            laptop,
            adversarial=dataclasses.replace(
                laptop.adversarial, discriminator_start=2, decoder_start=4
            ),
            optimizer=dataclasses.replace(laptop.optimizer, warmup_steps=2),
            batch_size=8,
            num_steps=12,
        )
        options = FinetuneOptions(
            config=config, tokenizer=str(folder / "tokenizer"),
            data=(str(folder / "scenes"),), out=str(folder / "run"), num_eval=8,
            devices=1, workers=2, log_every=6, save_every=6,
        )  # fmt: skip
        finetune(dataclasses.replace(options, dry_run=True))
        finetune(options)
        before = load(folder / "run")
        assert latents_hash(before) == latents_hash(load(folder / "tokenizer"))
        shutil.rmtree(folder / "run" / "checkpoints" / "12")
        finetune(options)
        assert eqx.tree_equal(load(folder / "run"), before)
        print("The last 6 steps were equal, bit for bit.")


def main() -> None:
    if sys.argv[1:] == ["--smoke"]:
        return smoke()
    finetune(preset_options(PRESETS, __doc__))


if __name__ == "__main__":
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        main()
