"""Which part of the recipe decides what joint pre-training gains? One change at a time.

    python experiments/bisect_recipe.py                       # 2 CPU cores: hours
    python experiments/bisect_recipe.py --scale workstation   # a GPU: hours
    python experiments/bisect_recipe.py --smoke               # does it run at all?

The recipe of the studies with 64 channels, pre-trained on reconstruction alone (AE) and
jointly (VTP), and then each of its choices undone: a start at principal components, the
weight of pixels, hard scenes, many images for self-distillation, and the width. Weights
and images for self-distillation do not concern AE: there its runs are those of the
unchanged recipe.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import dataclasses
import functools

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.methods import METHODS
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences


BASE = "as in the studies"
# Weights of pixels; contrast and self-distillation have 1, the recipe 1, the paper 0.1.
PIXEL_WEIGHTS = (0.3, 0.1, 0.03)
FEW_IMAGES = 8  # for self-distillation, a quarter of the pairs
# The choices a smoke run undoes: what others try is left out.
SMOKE = (BASE, "few images for SSL")


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: the recipe and one change at a time, for both methods."""
    recipe = RECIPES[scale]
    easy = dataclasses.replace(recipe.data, difficulty=0.0)
    changes = {  # to the method, to the recipe
        BASE: ({}, {}),
        "start: PCA": (dict(start="pca"), {}),
        **{
            f"pixels: {weight}": (dict(reconstruction=weight), {})
            for weight in PIXEL_WEIGHTS
        },
        "easy scenes": ({}, dict(data=easy)),
        "few images for SSL": ({}, dict(distilled=FEW_IMAGES)),
        "16 channels": ({}, dict(latent_width=16)),
    }
    specs = []
    for setting, (of_method, of_recipe) in changes.items():
        if scale == "smoke" and setting not in SMOKE:
            continue
        for method in ("AE", "VTP"):
            objectives = dataclasses.replace(METHODS[method], **of_method)
            values = of_recipe
            if method == "AE":  # alone, a weight means nothing
                objectives = dataclasses.replace(objectives, reconstruction=1.0)
                values = {k: v for k, v in of_recipe.items() if k != "distilled"}
            specs += [
                run(recipe, method, setting, seed, objectives=objectives, **values)
                for seed in seeds
            ]
    return specs


if __name__ == "__main__":
    run_study(
        Study(
            name="bisect_recipe",
            title="Joint pre-training beside reconstruction, by recipe",
            question=__doc__,
            plan=plan,
            figure=functools.partial(curves_figure, is_ordered=False),
            summary=lambda rows: baseline_sentences(rows, "VTP"),
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=2), description=__doc__),
    )
