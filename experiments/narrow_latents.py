"""Is joint pre-training ahead where latents are narrow, and does more of it help?

    python experiments/narrow_latents.py                       # 2 CPU cores: hours
    python experiments/narrow_latents.py --scale workstation   # a GPU: hours
    python experiments/narrow_latents.py --smoke               # does it run at all?

In `paired_seeds.py` an AE with half the channels was generated on far better than AE
and VTP with all of them: these are too many for so small a generator. Here are pairs
with half the channels, all seeds at the main budget of pre-training and half of them at
twice that budget, where AE costs about what VTP does at the main one. `--help` lists
the options.
"""

from collections.abc import Sequence

import tyro

from vtp_eqx.study.command import Arguments, run_study, Scale, Study
from vtp_eqx.study.figure import leads_figure
from vtp_eqx.study.findings import scaling_findings
from vtp_eqx.study.point import Point
from vtp_eqx.study.recipe import judged_longer, point, RECIPES


METHODS = ("AE", "VTP")
MORE = 2  # times the main budget

QUESTION = """\
Reconstruction alone (AE) and with contrast and self-distillation (VTP), in pairs of
runs with one seed of tokenizer, decoder and generator, on latents of half the channels
that the other studies have; for the main budget of pre-training, and, with fewer seeds,
for twice that. Behind each, a new decoder trained on frozen latents, and the same
diffusion transformer. Is one ahead by more than chance, and does the lead grow?"""


def plan(scale: Scale, seeds: Sequence[int]) -> list[Point]:
    """Every point: methods x seeds at the main budget; half the seeds at another."""
    recipe = judged_longer(RECIPES[scale])
    half = seeds[: (len(seeds) + 1) // 2]
    return [
        point(
            recipe, method, f"{steps} steps", seed,
            tokenizer_steps=steps, latent_width=recipe.latent_width // 2,
        )
        for steps, some in (
            (recipe.tokenizer_steps, seeds),
            (MORE * recipe.tokenizer_steps, half),
        )
        for method in METHODS
        for seed in some
    ]  # fmt: skip


if __name__ == "__main__":
    run_study(
        Study(
            name="narrow_latents",
            title="Joint pre-training where latents are narrow, seed by seed",
            question=QUESTION,
            plan=plan,
            figure=leads_figure,
            findings=scaling_findings,
        ),
        tyro.cli(Arguments, default=Arguments(seeds=6), description=__doc__),
    )
