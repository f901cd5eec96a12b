"""Does joint pre-training beat the other ways to semantics in latents?

    python experiments/compare_rivals.py                       # 2 CPU cores: hours
    python experiments/compare_rivals.py --scale workstation   # a GPU: hours
    python experiments/compare_rivals.py --smoke               # does it run at all?

Reconstruction alone (AE) and joint pre-training (VTP; of "VTP 2 blocks" the mean of two
blocks is read out), beside what uses a frozen encoder of the same size, pre-trained for
as many steps by contrast and self-distillation alone: latents aligned with its features
(distilled, VA-VAE), latents from which its features are predicted under noise (RecTok;
VTP + flow takes its own teacher's), and its features themselves, all (RAE, of one block
or two) or fewer of them (FAE; DINO-Tok, of shallow and deep blocks).
"+ Repulsor" adds to the generator a loss that keeps its features away from those of
earlier batches. What the frozen encoder takes is in the table. Every tokenizer then
gets a new pixel decoder, trained on its frozen latents, and the same diffusion
transformer. What differs from the sources: docs/rivals.md.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import frontier_figure
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import ranking_sentences
from vtp_eqx.study.table import COLUMNS, COSTS


METHODS = (
    "AE",
    "VTP",
    "distilled",
    "VA-VAE",
    "RecTok",
    "RAE",
    "RAE 2 blocks",
    "FAE",
    "DINO-Tok",
    "VTP 2 blocks",
    "VTP + flow",
    "AE + Repulsor",
    "VTP + Repulsor",
)
# A smoke run tries the longest ways; its encoders have but one block.
SMOKE = ("AE", "VA-VAE", "FAE", "VTP + flow", "AE + Repulsor")


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: methods x seeds, from as many samples."""
    return [
        run(RECIPES[scale], method, "equal samples", seed)
        for method in (SMOKE if scale == "smoke" else METHODS)
        for seed in seeds
    ]


if __name__ == "__main__":
    run_study(
        Study(
            name="compare_rivals",
            title="Generation and reconstruction by the way to semantics",
            question=__doc__,
            plan=plan,
            figure=frontier_figure,
            summary=ranking_sentences,
            columns=[*COLUMNS, *COSTS],
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
