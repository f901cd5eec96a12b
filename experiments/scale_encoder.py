"""Does a larger tokenizer make a better generator? Joint pre-training beside pixels.

    python experiments/scale_encoder.py                       # 2 CPU cores: 15 minutes
    python experiments/scale_encoder.py --scale workstation   # a GPU: minutes
    python experiments/scale_encoder.py --smoke               # does it run at all?

Pre-trains tokenizers of several encoder sizes with all three objectives (VTP) and with
reconstruction alone (AE), trains the same diffusion transformer on the latents of each,
samples, and draws generation quality against tokenizer compute, as in the
parameter-scaling figure of the paper (arXiv 2512.13687, section 4). All points have the
same data, decoder, generator, numbers of steps and images, and seeds. Run again, it
continues where it stopped; `--help` lists the options.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Literal

import tyro

from vtp_eqx.study import recipe
from vtp_eqx.study.command import Arguments, run_study, Scale, Study
from vtp_eqx.study.figure import scaling_figure
from vtp_eqx.study.findings import scaling_findings
from vtp_eqx.study.point import Point
from vtp_eqx.study.recipe import point, vit


HeadsOn = Literal["latent", "full"]

# Made to be seen in a quarter of an hour: short generators, jointly trained decoders.
LAPTOP = dataclasses.replace(
    recipe.LAPTOP,
    tokenizer_steps=1400,
    decoder_steps=0,
    generator_steps=2200,
    generator_ema=0.99,
    num_samples=1440,
)
WORKSTATION = dataclasses.replace(
    recipe.WORKSTATION, decoder_steps=0, generator_steps=20_000, generator_ema=0.99
)
SMOKE = dataclasses.replace(recipe.SMOKE, decoder_steps=0)
RECIPES = {"smoke": SMOKE, "laptop": LAPTOP, "workstation": WORKSTATION}
ENCODERS = {  # (width, depth)
    "smoke": [(48, 1)],
    "laptop": [(48, 3), (96, 3), (144, 3)],
    "workstation": [(96, 3), (192, 6), (288, 8)],
}

QUESTION = """\
Each tokenizer is pre-trained either jointly (VTP: contrast, self-distillation and
reconstruction) or on reconstruction alone (AE); the same diffusion transformer is then
trained on the latents of each. Does generation improve as the tokenizer grows?"""


def plan(
    scale: Scale, seeds: Sequence[int], heads_on: HeadsOn = "latent"
) -> list[Point]:
    """Every point: encoder sizes x methods x seeds."""
    joint = "VTP" if heads_on == "latent" else "VTP full"
    return [
        point(
            RECIPES[scale], method, f"{width}x{depth}", seed, encoder=vit(width, depth)
        )
        for seed in seeds
        for width, depth in ENCODERS[scale]
        for method in ("AE", joint)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Arguments):
    """The options of every study, and one of this one."""

    heads_on: HeadsOn = "latent"
    """What contrast and distillation read: the latents, or the encoder's full features
    as in the released models."""


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    full = options.heads_on == "full"
    run_study(
        Study(
            name="scale_encoder_full" if full else "scale_encoder",
            title="Generation against tokenizer compute"
            + (", heads on full features" if full else ""),
            question=QUESTION,
            plan=functools.partial(plan, heads_on=options.heads_on),
            figure=scaling_figure,
            findings=scaling_findings,
        ),
        options,
    )
