"""On whose latents does a generator learn fastest? FD-scenes at six budgets.

    python experiments/compare_convergence.py                      # 2 CPU cores: hours
    python experiments/compare_convergence.py --guidance 2         # the same, guided
    python experiments/compare_convergence.py --scale workstation  # a GPU: hours
    python experiments/compare_convergence.py --smoke              # does it run at all?

One training of the same diffusion transformer on the latents of each of three
tokenizers, measured with its averaged weights as it goes on: reconstruction alone (AE),
joint pre-training (VTP), and reconstruction with latents aligned to a frozen network
(distilled), as in the paper's figure of convergence (arXiv 2512.13687). The frozen
network is an encoder of the same size that learned from contrast and self-distillation
alone, for as many steps; what it takes is in the table. Every tokenizer has a new
decoder, trained on its frozen latents. Samples are not guided, unless `--guidance` says
so: that draws other samples of the same generators, and its report is one of its own.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import functools

import tyro

from vtp_eqx.study.command import run_study, SamplesOptions, Scale, Study
from vtp_eqx.study.figure import convergence_figure
from vtp_eqx.study.measure import at_budget
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences, convergence_sentence
from vtp_eqx.study.table import Column, COLUMNS, COSTS, Row


METHODS = ("AE", "VTP", "distilled")
BUDGETS: dict[Scale, tuple[int, ...]] = {
    "smoke": (2, 4, 6),
    "laptop": (250, 500, 1000, 2000, 4000, 6000),
    "workstation": (1000, 2500, 5000, 10_000, 20_000, 40_000),
}


def plan(scale: Scale, seeds: Sequence[int], *, guidance: float = 1.0) -> list[RunSpec]:
    """Every run: methods x seeds, each measured at all budgets."""
    recipe = RECIPES[scale]
    return [
        run(recipe, method, f"{recipe.latent_width} channels", seed,
            budgets=BUDGETS[scale], guidance=guidance)
        for method in METHODS
        for seed in seeds
    ]  # fmt: skip


def columns(scale: Scale) -> list[Column]:
    """The table's: FD-scenes at every budget, and what tokenizers took."""
    first, *others = [at_budget("FD-scenes", steps) for steps in BUDGETS[scale]]
    return [
        COLUMNS[0],
        Column(first, first, ".1f"),
        *(Column(name.removeprefix("FD-scenes "), name, ".1f") for name in others),
        COLUMNS[2],
        *COSTS,
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """The sentences of the report."""
    return [
        *(part for goal in METHODS for part in convergence_sentence(rows, goal)),
        *baseline_sentences(rows, "VTP", "distilled"),
    ]


if __name__ == "__main__":
    options = tyro.cli(
        SamplesOptions, default=SamplesOptions(seeds=3), description=__doc__
    )
    study = Study(
        name="compare_convergence",
        title="Generation by steps of the generator",
        question=__doc__,
        plan=functools.partial(plan, guidance=options.guidance),
        figure=convergence_figure,
        summary=summary,
        columns=columns(options.planned_scale),
    )
    run_study(study.guided(options.guidance), options)
