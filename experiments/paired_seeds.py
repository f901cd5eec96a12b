"""Is joint pre-training ahead of reconstruction alone by more than chance?

    python experiments/paired_seeds.py                       # 2 CPU cores: hours
    python experiments/paired_seeds.py --scale workstation   # a GPU: hours
    python experiments/paired_seeds.py --smoke               # does it run at all?

The main budget of `scale_compute.py` and `compare_objectives.py` with many seeds and
few methods, so that chance has an interval; with a generator trained four times as
long, so that samples are whole; and without striped backgrounds, of which generators
draw 5 to 10 in 100 in place of 27: a third to a half of FD-scenes, by chance. `--help`
lists the options.
"""

from collections.abc import Sequence
import dataclasses

import tyro

from vtp_eqx.study.command import Arguments, run_study, Scale, Study
from vtp_eqx.study.figure import leads_figure
from vtp_eqx.study.findings import paired_findings
from vtp_eqx.study.point import Point
from vtp_eqx.study.recipe import as_costly_steps, point, RECIPES


METHODS = ("AE", "VTP")
# Is it that latents are narrower, whatever they mean?
CONTROLS = ("AE half the channels",)
LONGER = 4  # generators, beside those of the recipe
TEXTURES = ("plain", "checkered", "dotted")

QUESTION = """\
Reconstruction alone (AE) and with contrast and self-distillation (VTP), in pairs of
runs with one seed of tokenizer, decoder and generator: for as many samples; and, with
half of the seeds, for as much compute, and beside a control. Behind each, a new decoder
trained on frozen latents, and the same diffusion transformer, trained four times as
long as in the studies with many methods, on scenes without striped backgrounds. Is one
ahead by more than chance?"""


def plan(scale: Scale, seeds: Sequence[int]) -> list[Point]:
    """Every point: methods x seeds; half of the seeds for the control and compute."""
    recipe = RECIPES[scale]
    recipe = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, textures=TEXTURES),
        generator_steps=LONGER * recipe.generator_steps,
    )
    steps, half = recipe.tokenizer_steps, seeds[: (len(seeds) + 1) // 2]
    groups = [("equal samples", method, steps, seeds) for method in METHODS]
    if scale != "smoke":  # that of `compare_objectives.py` tries such
        groups += [("equal samples", method, steps, half) for method in CONTROLS]
        groups += [
            ("equal compute", method, as_costly_steps(recipe, method), half)
            for method in METHODS
        ]
    return [
        point(recipe, method, size, seed, tokenizer_steps=steps)
        for size, method, steps, seeds in groups
        for seed in seeds
    ]


if __name__ == "__main__":
    run_study(
        Study(
            name="paired_seeds",
            title="Joint pre-training beside reconstruction alone, seed by seed",
            question=QUESTION,
            plan=plan,
            figure=leads_figure,
            findings=paired_findings,
        ),
        tyro.cli(Arguments, default=Arguments(seeds=8), description=__doc__),
    )
