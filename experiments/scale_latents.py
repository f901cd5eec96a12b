"""Does semantics keep wide latents good to generate on? From 8 channels to 88.

    python experiments/scale_latents.py --seeds 3             # 2 CPU cores: ten hours
    python experiments/scale_latents.py --methods AE VTP      # two methods alone first
    python experiments/scale_latents.py --controls            # every regularizer too
    python experiments/scale_latents.py --image-size 64       # 64 pixels, patches of 16
    python experiments/scale_latents.py --scale workstation   # a GPU: hours
    python experiments/scale_latents.py --scale accelerator --image-size 64 --minutes 9
    python experiments/scale_latents.py --smoke               # does it run at all?

The more channels latents have, the better they reconstruct and the worse they are to
generate on. Pre-trains tokenizers of every width on reconstruction alone (AE) and
jointly (VTP), with controls: the same latents in a random orthogonal basis or with one
scaling factor, principal components, noisy latents, a start at principal components,
single objectives, and with `--controls` those of `study/methods.py`. Every
tokenizer gets a new decoder and the same short training of the same diffusion
transformer, measured after two budgets. The figure is generation against
reconstruction, a curve for each method: whose generation is better at equal
reconstruction? The methods that decide have all seeds, the others the first.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import dataclasses
import functools
from itertools import product
from pathlib import Path
from typing import Literal

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import frontier_figure
from vtp_eqx.study.methods import CONTROLS
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import (
    baseline_sentences,
    control_sentences,
    frontier_sentences,
    trend_sentence,
)
from vtp_eqx.study.table import Column, COLUMNS, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Those of every study, and the size of scenes."""

    scale: Scale = "laptop"
    """How large: for two CPU cores, for a GPU, or for ten minutes of an accelerator."""
    image_size: Literal[32, 64] = 32
    """Side of the scenes, in pixels. Latents have a grid of 4 x 4; of 64 pixels, 64
    channels are a twelfth of the numbers of an image, as in the paper."""
    controls: bool = False
    """Plan every control of `study/methods.py` too, at the width of other studies."""


# Decoders start as linear maps: their width, 96, must be a few more than the latents.
WIDTHS = (8, 16, 32, 64, 88)
DECIDING = ("AE", "VTP", "VTP full", "AE noise 0.2")  # full: heads as released
DECIDING += ("PCA rotated", "VTP from PCA rotated")
SINGLE = ("CLIP+AE", "SSL+AE")
OTHERS = ("PCA", *SINGLE)  # of the first seed alone
# What a basis and a scale of channels do to wide latents, and learned weights.
WIDE = (64, 88)
OF_WIDE = ("AE rotated", "VTP rotated", "VTP from PCA", "AE one factor")
OF_WIDE += ("PCA one factor", "VTP one factor", "VTP from PCA one factor")
OF_WIDE += ("VTP learned weights", "VTP learned weights from PCA rotated")
SMOKE = ("AE", "PCA rotated")  # not in `compare_objectives.py`; each takes a minute
# In ten minutes the question first, then cheaper answers.
ARMS = [("AE", 64), ("VTP", 64), ("AE noise 0.2", 64), ("AE", 16), ("AE masked", 64)]


def plan(
    scale: Scale, seeds: Sequence[int], *, image_size: Literal[32, 64] = 32,
    controls: bool = False,
) -> list[RunSpec]:  # fmt: skip
    """Every run: methods x channels x seeds, then labels that say less."""
    recipe = RECIPES[scale]
    patch_size = recipe.patch_size * image_size // recipe.data.size  # as many tokens
    data = dataclasses.replace(recipe.data, size=image_size)
    recipe = dataclasses.replace(recipe, data=data, patch_size=patch_size)
    arms = [*product(DECIDING + OTHERS, WIDTHS), *product(OF_WIDE, WIDE)]
    arms = {"smoke": [*product(SMOKE, (8, 16))], "accelerator": ARMS}.get(scale, arms)
    if controls:
        arms = [*arms, *product(CONTROLS, (recipe.latent_width,))]
    specs = [
        run(recipe, method, f"{width}", seed, latent_width=width)
        for seed in seeds
        for method, width in arms
        if seed == seeds[0] or method not in OTHERS
    ]
    of_labels = [
        run(recipe, method, f"{recipe.latent_width}, labels: {labels}", seed,
            labels=labels)
        for labels in ("color", "none")  # that a generator may know, beside the class
        for method in ("AE", "VTP")
        for seed in seeds
    ]  # fmt: skip
    return specs if scale in ("smoke", "accelerator") else specs + of_labels


def figure(rows: Sequence[Row], path: Path, title: str) -> None:
    """Generation against PSNR at either budget; see `frontier_figure`."""
    # Points at one width, that hide others.
    hiding = (*SINGLE, "AE rotated", "VTP rotated", "VTP from PCA", *CONTROLS)
    hiding += ("VTP learned weights",)
    is_drawn = lambda spec: spec.method not in hiding and spec.labels == "class"
    first, last = rows[0].spec.budgets
    frontier_figure(
        [row for row in rows if is_drawn(row.spec)], path, title,
        names=(f"FD-scenes @{first}", f"FD-scenes @{last}", "class accuracy"),
    )  # fmt: skip


def columns(first_budget: int) -> list[Column]:
    """The table's: FD-scenes at either budget."""
    early = Column(f"FD-scenes @{first_budget}", f"FD-scenes @{first_budget}", ".1f")
    return [COLUMNS[0], early, *COLUMNS[1:3], COLUMNS[4]]


def summary(rows: Sequence[Row]) -> list[str]:
    """The sentences of the report."""
    of_classes = [row for row in rows if row.spec.labels == "class"]
    return [
        *trend_sentence(of_classes, ("AE", "VTP"), "channels"),
        *baseline_sentences(rows, "VTP"),
        *frontier_sentences(of_classes, "VTP", "AE", "AE noise 0.2", "PCA rotated"),
        *frontier_sentences(of_classes, "PCA rotated", "AE"),
        *control_sentences(of_classes, "VTP"),
    ]


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    side = options.image_size
    run_study(
        Study(
            name="scale_latents" if side == 32 else f"scale_latents_{side}",
            title=f"Generation against reconstruction, scenes of {side} pixels",
            question=__doc__,
            plan=functools.partial(plan, image_size=side, controls=options.controls),
            figure=figure,
            summary=summary,
            columns=columns(RECIPES[options.planned_scale].budgets[0]),
        ),
        options,
    )
