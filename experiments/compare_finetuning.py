"""What does a decoder gain from a discriminator, and do samples gain with it?

    python experiments/compare_finetuning.py                       # 2 CPU cores: hours
    python experiments/compare_finetuning.py --scale workstation   # a GPU: hours
    python experiments/compare_finetuning.py --smoke               # does it run at all?

Stage two of the paper (arXiv 2512.13687), in miniature: tokenizers pre-trained jointly
(VTP) or on reconstruction alone (AE) get a decoder on frozen latents (stage one), which
is then trained on for as many steps: without a discriminator, the control; against a
PatchGAN; and so with noise on latents, that it may forgive a generator. The generator
is the same one each time, because latents stay as they are. Are reconstructions and
samples nearer to real scenes?
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import tyro

from vtp_eqx.config import FinetuneConfig
from vtp_eqx.config.presets import FINETUNE_LAPTOP
from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.recipe import Recipe, RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import setting_sentences
from vtp_eqx.study.table import Column, COLUMNS


METHODS = ("VTP", "AE")
STAGE_ONE, CONTROL, PATCH, NOISE = "stage one", "longer", "PatchGAN", "PatchGAN, noise"
SMOKE = (STAGE_ONE, PATCH)
NUMBERS = ("rFD-scenes", "FD-scenes", "PSNR")  # that are drawn and summed up
DECODER_NOISE = 0.4  # up to so many deviations of a channel; RAE 0.8


def stages(recipe: Recipe) -> Mapping[str, FinetuneConfig | None]:
    """How the decoder is trained on, by what the table calls it."""
    steps = recipe.decoder_steps
    laptop = FINETUNE_LAPTOP
    patch = dataclasses.replace(
        laptop,
        adversarial=dataclasses.replace(
            laptop.adversarial,
            discriminator_start=steps // 10,
            decoder_start=steps // 5,
        ),
        optimizer=dataclasses.replace(laptop.optimizer, warmup_steps=steps // 20),
        batch_size=recipe.pixels,
        num_steps=steps,
    )
    # A discriminator that the decoder never learns from.
    alone = dataclasses.replace(patch.adversarial, decoder_start=steps)
    return {
        STAGE_ONE: None,
        CONTROL: dataclasses.replace(patch, adversarial=alone),
        PATCH: patch,
        NOISE: dataclasses.replace(
            patch, latent_noise=DECODER_NOISE, noise_law="uniform"
        ),
    }


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: methods x ways to train on x seeds."""
    recipe = RECIPES[scale]
    return [
        dataclasses.replace(
            run(recipe, method, setting, seed),
            finetune=config and dataclasses.replace(config, seed=seed),
        )
        for method in METHODS[: 1 if scale == "smoke" else None]
        for setting, config in stages(recipe).items()
        if scale != "smoke" or setting in SMOKE
        for seed in seeds
    ]


if __name__ == "__main__":
    run_study(
        Study(
            name="compare_finetuning",
            title="Reconstruction and generation by the decoder's last stage",
            question=__doc__,
            plan=plan,
            figure=functools.partial(
                curves_figure,
                x_label="decoder",
                names=NUMBERS,
            ),
            summary=lambda rows: setting_sentences(rows, CONTROL, NUMBERS),
            columns=[
                Column("rFD-scenes (lower is better)", "rFD-scenes", ".2f"),
                Column("SSIM", "SSIM", ".3f"),
                *COLUMNS[:3],
            ],
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
