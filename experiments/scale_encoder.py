"""Does a larger tokenizer make a better generator? Joint pre-training beside pixels.

    python experiments/scale_encoder.py                       # 2 CPU cores: 15 minutes
    python experiments/scale_encoder.py --scale workstation   # a GPU: minutes
    python experiments/scale_encoder.py --smoke               # does it run at all?

Pre-trains tokenizers of several encoder sizes, with latents of 64 channels, with all
three objectives (VTP) and with reconstruction alone (AE), trains the same diffusion
transformer on the latents of each, samples, and draws the quality of generation against
the size of the encoder, as in the parameter-scaling figure of the paper
(arXiv 2512.13687, section 4). All runs have the same data, decoder, generator, numbers
of steps and images, and seeds. Behind its own points the figure has the span of the
seeds in `docs/results/scale_encoder/runs.json`, where the recipe is still the same.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import dataclasses
import functools
from pathlib import Path

import tyro

from vtp_eqx.study import recipe
from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.recipe import run, vit
from vtp_eqx.study.report import read_records, rows_of
from vtp_eqx.study.run_spec import RunPaths, RunSpec
from vtp_eqx.study.summary import baseline_sentences, trend_sentence
from vtp_eqx.study.table import finished_rows, Row


# Made to be seen in a quarter of an hour: short trainings, jointly trained decoders.
LAPTOP = dataclasses.replace(
    recipe.LAPTOP,
    tokenizer_steps=800,
    decoder_steps=0,
    budgets=(1500,),
    generator_ema=0.99,
    num_samples=1200,
)
WORKSTATION = dataclasses.replace(
    recipe.WORKSTATION, decoder_steps=0, budgets=(20_000,)
)
SMOKE = dataclasses.replace(recipe.SMOKE, decoder_steps=0)
RECIPES = {"smoke": SMOKE, "laptop": LAPTOP, "workstation": WORKSTATION}
ENCODERS = {  # (width, depth)
    "smoke": [(48, 1)],
    "laptop": [(48, 3), (96, 3), (144, 3)],
    "workstation": [(96, 3), (192, 6), (288, 8)],
}
METHODS = ("AE", "VTP")
COMMITTED = Path(__file__).parents[1] / "docs/results/scale_encoder/runs.json"
COMMITTED_SEEDS = range(8)


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: encoder sizes x methods x seeds."""
    return [
        run(RECIPES[scale], method, f"{width}x{depth}", seed, encoder=vit(width, depth))
        for seed in seeds
        for width, depth in ENCODERS[scale]
        for method in METHODS
    ]


def committed(scale: Scale) -> list[Row]:
    """The runs of the committed study that have this recipe."""
    known = read_records([COMMITTED] if COMMITTED.exists() else [])
    return finished_rows(rows_of(plan(scale, COMMITTED_SEEDS), RunPaths(Path()), known))


if __name__ == "__main__":
    options = tyro.cli(StudyOptions, description=__doc__)
    run_study(
        Study(
            name="scale_encoder",
            title="Generation by encoder size, with latents of 64 channels",
            question=__doc__,
            plan=plan,
            figure=functools.partial(
                curves_figure,
                x_label="encoder: width x depth",
                band=committed(options.planned_scale),
            ),
            summary=lambda rows: (
                baseline_sentences(rows, "VTP")
                + trend_sentence(rows, METHODS, "encoder size")
            ),
        ),
        options,
    )
