"""Which objectives make latents good to generate on, and what goes along with it?

    python experiments/compare_objectives.py                       # 2 CPU cores: hours
    python experiments/compare_objectives.py --scale workstation   # a GPU: hours
    python experiments/compare_objectives.py --smoke               # does it run at all?

Pre-trains tokenizers with reconstruction (AE) and contrast (CLIP) or self-distillation
(SSL) or both (VTP) beside it, for equal samples and for equal compute, as in the
paper's table of objectives (arXiv 2512.13687, section 4), and controls: narrower, noisy
or smooth latents, no training, no pixels, learned weights. Every tokenizer then gets a
new pixel decoder, trained on its frozen latents in the same way, and the same diffusion
transformer. Equal samples have all seeds, equal compute one less. Runs that
`scale_compute.py` made are found. `--help` lists the options.
"""

from collections.abc import Sequence

import tyro

from vtp_eqx.study.command import Arguments, one_less, run_study, Scale, Study
from vtp_eqx.study.figure import scatter_figure
from vtp_eqx.study.findings import objective_findings
from vtp_eqx.study.point import Point
from vtp_eqx.study.recipe import as_costly_steps, METHODS, point, RECIPES


OBJECTIVES = ("AE", "CLIP+AE", "SSL+AE", "VTP")
# A smoke run tries what the others do not share; each takes a minute to compile.
SMOKE = ("AE", "VTP learned weights", "AE latent noise", "CLIP", "random encoder")

QUESTION = """\
Reconstruction (AE) with contrast (CLIP+AE), with self-distillation (SSL+AE), and with
both (VTP), for as many samples and for as much compute as VTP; and controls, for as
many samples. Behind each, a new decoder trained on frozen latents, and the same
diffusion transformer. Is it understanding that makes latents good to generate on?"""


def plan(scale: Scale, seeds: Sequence[int]) -> list[Point]:
    """Every point: methods x seeds for equal samples, objectives for equal compute."""
    recipe = RECIPES[scale]
    is_smoke = scale == "smoke"
    return [
        point(recipe, method, "equal samples", seed)
        for method in (SMOKE if is_smoke else METHODS)
        for seed in seeds
    ] + [
        point(recipe, method, "equal compute", seed, tokenizer_steps=steps)
        for method in (OBJECTIVES[:1] if is_smoke else OBJECTIVES)
        for steps in [as_costly_steps(recipe, method)]
        for seed in one_less(seeds)
    ]


if __name__ == "__main__":
    run_study(
        Study(
            name="compare_objectives",
            title="Generation, understanding and reconstruction by objective",
            question=QUESTION,
            plan=plan,
            figure=scatter_figure,
            findings=objective_findings,
        ),
        tyro.cli(Arguments, default=Arguments(seeds=3), description=__doc__),
    )
