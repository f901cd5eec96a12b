"""How should contrast, self-distillation and pixels be weighed? Fixed or learned.

    python experiments/weigh_losses.py                       # 2 CPU cores: hours
    python experiments/weigh_losses.py --scale workstation   # a GPU: hours
    python experiments/weigh_losses.py --smoke               # does it run at all?

Pre-trains jointly with each of the three weights in turn at a tenth, a third and three
times the others, and with weights that are learned (Kendall et al. 2018,
https://arxiv.org/abs/1705.07115), from equal ones on. The paper (arXiv 2512.13687) has
a tenth for pixels. Every tokenizer then gets a new pixel decoder, trained on its frozen
latents, and the same diffusion transformer. The table has the cosines between gradients
of objectives on the encoder at the end of pre-training, means over eight batches (1:
they agree, 0: they have nothing in common); `runs.json` their deviations too, and the
learned weights.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import dataclasses
import functools

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.methods import METHODS, VTP
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.statistics import format_mean, mean, paired_differences
from vtp_eqx.study.summary import trend_sentence
from vtp_eqx.study.table import Column, COLUMNS, groups, Row


WEIGHTS = ("0.1", "0.3", "1", "3")  # of one objective; the others have 1
VARIED = {"contrast": "contrast", "SSL": "distillation", "pixels": "reconstruction"}
LEARNED = "learned"
PAIRS = {  # of objectives, by the names of their terms
    "contrast, SSL": "contrast, distillation",
    "contrast, pixels": "contrast, reconstruction",
    "SSL, pixels": "distillation, reconstruction",
}
CELLS = [
    *COLUMNS[:3],
    *(Column(f"cosine {p}", f"gradient cosine {PAIRS[p]}", "+.2f") for p in PAIRS),
]


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: objectives x weights x seeds, then learned weights."""
    recipe = dataclasses.replace(RECIPES[scale], gradient_batches=8)
    specs = [
        run(recipe, name, weight, seed,
            objectives=dataclasses.replace(VTP, **{VARIED[name]: float(weight)}))
        for name in VARIED
        for weight in WEIGHTS
        for seed in seeds
    ]  # fmt: skip
    if scale == "smoke":  # each takes two minutes to compile
        return specs[:1]
    how = METHODS["VTP learned weights"]
    return specs + [run(recipe, LEARNED, LEARNED, s, objectives=how) for s in seeds]


def summary(rows: Sequence[Row]) -> list[str]:
    """The sentences of the report."""
    found = groups(rows)
    ours, equal = found.get((LEARNED, LEARNED)), found.get(("pixels", "1"))
    sentences = trend_sentence(rows, [*VARIED], "the weight of one objective")
    if not ours:
        return sentences
    weights = [f"{name} {mean(ours, f'weight {VARIED[name]}'):.2f}" for name in VARIED]
    sentences.append(f"Learned weights at the end: {', '.join(weights)}.")
    if not equal or not ours.keys() & equal.keys():
        return sentences
    parts = [
        text.format(format_mean(paired_differences(ours, equal, name, sign=sign)))
        for text, name, sign in (
            ("FD-scenes {}", "FD-scenes", 1), ("PSNR {} dB", "PSNR", 1),
            ("class right {} points", "class accuracy", 100),
        )
    ]  # fmt: skip
    return [f"Learned weights minus equal ones: {', '.join(parts)}.", *sentences]


if __name__ == "__main__":
    run_study(
        Study(
            name="weigh_losses",
            title="Generation by the weights of objectives",
            question=__doc__,
            plan=plan,
            figure=functools.partial(curves_figure, x_label="weight of one objective"),
            summary=summary,
            columns=CELLS,
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=2), description=__doc__),
    )
