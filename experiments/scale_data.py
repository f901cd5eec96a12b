"""Does more data make a better tokenizer to generate on? From a sixteenth to all of it.

    python experiments/scale_data.py                       # 2 CPU cores: hours
    python experiments/scale_data.py --scale workstation   # a GPU: hours
    python experiments/scale_data.py --smoke               # does it run at all?

Pre-trains tokenizers of one size for equal steps on the first sixteenth, the first
quarter and all of the training scenes, jointly (VTP) and on reconstruction alone (AE),
as in the data-scaling figure of the paper (arXiv 2512.13687, figure 7a). Every
tokenizer then gets a new pixel decoder, trained on frozen latents of the same scenes,
and the same diffusion transformer, which learns from all scenes: what differs is what
the tokenizer has seen.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import functools

import tyro

from vtp_eqx.scenes.render import NUM_CLASSES
from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences, trend_sentence


# Of the training scenes, rounded down to whole sets of all classes.
SHARES = (1 / 16, 1 / 4, 1)
METHODS = ("AE", "VTP")
SMOKE = METHODS[:1]  # each takes a minute to compile


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: shares of the scenes x methods x seeds."""
    recipe = RECIPES[scale]
    specs = []
    for share in SHARES[1:] if scale == "smoke" else SHARES:
        count = int(share * recipe.data.num_train) // NUM_CLASSES * NUM_CLASSES
        images = None if share == 1 else count
        specs += [
            run(recipe, method, f"{count}", seed, tokenizer_images=images)
            for method in (SMOKE if scale == "smoke" else METHODS)
            for seed in seeds
        ]
    return specs


if __name__ == "__main__":
    run_study(
        Study(
            name="scale_data",
            title="Generation by the tokenizer's training images",
            question=__doc__,
            plan=plan,
            figure=functools.partial(
                curves_figure, x_label="distinct training images of the tokenizer"
            ),
            summary=lambda rows: (
                baseline_sentences(rows, "VTP")
                + trend_sentence(rows, METHODS, "the tokenizer's distinct images")
            ),
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
