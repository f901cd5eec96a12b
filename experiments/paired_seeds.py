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

import tyro

from vtp_eqx.study.command import Arguments, one_less, run_study, Scale, Study
from vtp_eqx.study.figure import leads_figure
from vtp_eqx.study.findings import paired_findings
from vtp_eqx.study.point import Point
from vtp_eqx.study.recipe import as_costly_steps, judged_longer, point, RECIPES


METHODS = ("AE", "VTP")
CONTROL = "AE half the channels"  # are narrower latents all it takes?

QUESTION = """\
Reconstruction alone (AE) and with contrast and self-distillation (VTP), in pairs of
runs with one seed of tokenizer, decoder and generator: for as many samples, with all
channels and with half of them; and, with fewer seeds, for as much compute. Behind each,
a new decoder trained on frozen latents, and the same diffusion transformer, trained
four times as long as in the studies with many methods, on scenes without striped
backgrounds. Is one ahead by more than chance?"""


def plan(scale: Scale, seeds: Sequence[int]) -> list[Point]:
    """Every point: methods x channels x seeds; fewer seeds with equal compute."""
    recipe = judged_longer(RECIPES[scale])
    pairs = [
        point(recipe, method, "equal samples", seed)
        for method in METHODS
        for seed in seeds
    ]
    if scale == "smoke":  # that of `compare_objectives.py` tries such as follow
        return pairs
    # Twice: beside all channels, and as the baseline of VTP with half of them.
    control = [point(recipe, CONTROL, "equal samples", seed) for seed in seeds]
    half = [
        point(recipe, method, "half the channels", seed,
              latent_width=recipe.latent_width // 2)
        for method in METHODS
        for seed in seeds
    ]  # fmt: skip
    costly = [
        point(recipe, method, "equal compute", seed,
              tokenizer_steps=as_costly_steps(recipe, method))
        for method in METHODS
        for seed in one_less(seeds[: (len(seeds) + 1) // 2])
    ]  # fmt: skip
    return pairs + control + half + costly


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
        tyro.cli(Arguments, default=Arguments(seeds=6), description=__doc__),
    )
