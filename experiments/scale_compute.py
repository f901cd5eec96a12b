"""Does more pre-training make latents better to generate on? Three ways of it.

    python experiments/scale_compute.py                       # 2 CPU cores: hours
    python experiments/scale_compute.py --scale workstation   # a GPU: hours
    python experiments/scale_compute.py --smoke               # does it run at all?

Pre-trains tokenizers of one size with budgets over a factor of eight: on reconstruction
alone (AE), and jointly with contrast and distillation on the latents (VTP) or on the
encoder's full features (VTP full), as in the compute-scaling figure of the paper
(arXiv 2512.13687, section 4). Every tokenizer then gets a new pixel decoder, trained on
its frozen latents in the same way, and the same diffusion transformer. Does joint
pre-training start worse and overtake? The main budget has all seeds, the others one
fewer.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import functools

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences, trend_sentence


# Pre-training steps, as shares of the recipe's; 1 has all seeds, the others one fewer.
BUDGETS = (0.25, 0.5, 1, 2)
METHODS = ("AE", "VTP", "VTP full")


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: budgets x methods x seeds."""
    recipe = RECIPES[scale]
    specs = []
    # A smoke run tries two: every budget compiles a step of its own.
    for share in BUDGETS[1:3] if scale == "smoke" else BUDGETS:
        steps = round(share * recipe.tokenizer_steps)
        fewer_seeds = seeds[:-1] or seeds
        specs += [
            run(recipe, method, f"{steps} steps", seed, tokenizer_steps=steps)
            for method in METHODS
            for seed in (seeds if share == 1 else fewer_seeds)
        ]
    return specs


if __name__ == "__main__":
    run_study(
        Study(
            name="scale_compute",
            title="Generation by pre-training steps",
            question=__doc__,
            plan=plan,
            figure=functools.partial(curves_figure, x_label="pre-training steps"),
            summary=lambda rows: (
                baseline_sentences(rows, "VTP", "VTP full")
                + trend_sentence(rows, METHODS, "pre-training")
            ),
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
