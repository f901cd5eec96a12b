"""Which objectives make latents good to generate on?

    python experiments/compare_objectives.py                       # 2 CPU cores: hours
    python experiments/compare_objectives.py --scale workstation   # a GPU: hours
    python experiments/compare_objectives.py --smoke               # does it run at all?

Pre-trains tokenizers with reconstruction (AE) and contrast (CLIP) or self-distillation
(SSL) or both (VTP) beside it, for equal samples and for equal compute, as in the
paper's table of objectives (arXiv 2512.13687, section 4), and controls: noisy or smooth
latents, no training, no pixels, learned weights. Every tokenizer then gets a new pixel
decoder, trained on its frozen latents in the same way, and the same diffusion
transformer. Equal samples have all seeds, equal compute one fewer.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import frontier_figure
from vtp_eqx.study.recipe import compute_matched_steps, RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences


OBJECTIVES = ("AE", "CLIP+AE", "SSL+AE", "VTP")
CONTROLS = (
    "VTP full",
    "VTP learned weights",
    "AE noise 0.2",
    "AE smooth",
    "PCA",
    "random encoder",
    "CLIP",
)
# A smoke run tries what the others do not share; each takes a minute to compile.
SMOKE = ("AE", "VTP learned weights", "AE smooth", "CLIP", "random encoder")


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: methods x seeds for equal samples, objectives for equal compute."""
    recipe = RECIPES[scale]
    is_smoke = scale == "smoke"
    fewer_seeds = seeds[:-1] or seeds
    return [
        run(recipe, method, "equal samples", seed)
        for method in (SMOKE if is_smoke else OBJECTIVES + CONTROLS)
        for seed in seeds
    ] + [
        run(recipe, method, "equal compute", seed, tokenizer_steps=steps)
        for method in (OBJECTIVES[:1] if is_smoke else OBJECTIVES)
        for steps in [compute_matched_steps(recipe, method)]
        for seed in fewer_seeds
    ]


if __name__ == "__main__":
    run_study(
        Study(
            name="compare_objectives",
            title="Generation and reconstruction by objective",
            question=__doc__,
            plan=plan,
            figure=frontier_figure,
            summary=lambda rows: baseline_sentences(rows, *OBJECTIVES[1:]),
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
