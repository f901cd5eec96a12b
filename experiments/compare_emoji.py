"""Does what scenes show hold of real pictures? Emoji of three vendors.

    python experiments/make_emoji_tars.py --out data/emoji
    python experiments/compare_emoji.py --tars data/emoji   # 2 CPU cores: hours
    python experiments/compare_emoji.py --guidance 3 --generator-steps 36000
    python experiments/compare_emoji.py --scale accelerator --minutes 9
    python experiments/compare_emoji.py --smoke             # does it run at all?

Captioned emoji of 64 pixels in patches of 16, and tokenizers of 16 and of 64 channels
by reconstruction alone (AE, of 32 too), jointly from a random start (VTP; "full": with
heads on the encoder's features, as in the released models) and from principal
components, and as principal components alone, the latter two in a random basis; AE with
noisy latents and with masked patches, and AE and components with one scaling factor.
All else is the recipe of `scale_latents.py`; no batch of a pre-training has two
vendors' drawings of one name. What reads samples is a small network, trained once on
the training emoji: beside the accuracy of samples stand those of held-out emoji and of
reconstructions.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import dataclasses
import functools
from itertools import product
from pathlib import Path
import tempfile

import tyro

from vtp_eqx.config import require_fields
from vtp_eqx.data.emoji_tars import EmojiConfig, write_made_up_emoji
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.study.command import run_study, SamplesOptions, Scale, Study
from vtp_eqx.study.emoji_data import EmojiData
from vtp_eqx.study.figure import frontier_figure
from vtp_eqx.study.recipe import Recipe, RECIPES, run, TEXT
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import (
    baseline_sentences,
    control_sentences,
    frontier_sentences,
    network_sentence,
    trend_sentence,
)
from vtp_eqx.study.table import Column, COLUMNS, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SamplesOptions):
    """Those of every study, how samples are drawn, and the emoji."""

    scale: Scale = "laptop"
    """How large: for two CPU cores, for a GPU, or for ten minutes of an accelerator."""
    tars: Path = Path("data/emoji")
    """The folder of `experiments/make_emoji_tars.py`; not read by a smoke run."""
    generator_steps: int | None = None
    """Train generators for so many steps, and report that by itself."""

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, "1 or more", "generator_steps")


METHODS = ("AE", "VTP", "VTP full", "PCA rotated", "VTP from PCA rotated")
METHODS += ("AE noise 0.2", "AE masked", "AE one factor", "PCA one factor")
# AE of 32 channels has about the pixels of VTP of 64.
ARMS = [*product(("AE",), (16, 32, 64)), *product(METHODS[1:], (16, 64))]
SMOKE = [("VTP from PCA rotated", 16)]  # each takes a minute
# In ten minutes the question first, then AE as it reconstructs alike, and a control.
ACCELERATOR = [("AE", 64), ("VTP", 64), ("AE", 32), ("AE noise 0.2", 64), ("AE", 16)]


def recipe_for(options: Options, data: EmojiData) -> Recipe:
    """The recipe of scenes, with as many tokens an image and longer captions."""
    recipe = RECIPES[options.planned_scale]
    budgets = recipe.budgets
    if (last := options.generator_steps) is not None:
        budgets = (*[steps for steps in budgets if steps < last][-1:], last)
    text = dataclasses.replace(TEXT, context=24, vocabulary=1500)
    patch_size = recipe.patch_size * data.size // recipe.data.size  # as many tokens
    return dataclasses.replace(
        recipe, data=data, patch_size=patch_size, text=text, budgets=budgets,
        guidance=options.guidance,
    )  # fmt: skip


def plan(scale: Scale, seeds: Sequence[int], *, recipe: Recipe) -> list[RunSpec]:
    """Every run: methods x channels x seeds."""
    arms = {"smoke": SMOKE, "accelerator": ACCELERATOR}.get(scale, ARMS)
    return [
        run(recipe, method, f"{channels}", seed, latent_width=channels)
        for seed in seeds
        for method, channels in arms
    ]


def columns(first_budget: int) -> list[Column]:
    """The table's: FD-emoji at either budget."""
    name = f"FD-emoji @{first_budget}"
    return [
        COLUMNS[0],
        Column(name, name, ".1f"),
        Column("FD-emoji (lower is better)", "FD-emoji", ".1f"),
        Column("class right", "class accuracy", ".0%"),
        Column("group right", "group accuracy", ".0%"),
        Column("class read off latents", "probe latents class", ".0%"),
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """The sentences of the report."""
    return [
        *network_sentence(rows),
        *trend_sentence(rows, METHODS, "channels"),
        *baseline_sentences(rows, *METHODS[1:]),
        *baseline_sentences(rows, "VTP from PCA rotated", baseline="PCA rotated"),
        *frontier_sentences(rows, "VTP", "AE", "AE noise 0.2"),
        *frontier_sentences(rows, "VTP full", "AE"),
        *control_sentences(rows, "VTP"),
    ]


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tars, short = options.tars, {}
        if options.smoke:
            tars = write_made_up_emoji(Path(scratch), EmojiConfig(size=32))
            short = dict(num_epochs=1, warmup_steps=1)
        data = EmojiData.of(tars, **short)
        recipe = recipe_for(options, data)
        names = (*(f"FD-emoji @{steps}" for steps in recipe.budgets), "class accuracy")
        study = Study(
            name="compare_emoji",
            title=f"Generation against reconstruction, emoji of {data.size} pixels",
            question=__doc__,
            plan=functools.partial(plan, recipe=recipe),
            figure=functools.partial(frontier_figure, names=names),
            summary=summary,
            columns=columns(recipe.budgets[0]),
        )
        if (last := options.generator_steps) is not None:
            study = study.variant(f"{last}_steps", f"generators of {last:,} steps")
        run_study(study.guided(options.guidance), options)


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError):
        main(tyro.cli(Options, default=Options(seeds=3), description=__doc__))
