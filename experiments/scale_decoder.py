"""Does a larger pixel decoder help, beside the same encoder?

    python experiments/scale_decoder.py                       # 2 CPU cores: hours
    python experiments/scale_decoder.py --scale workstation   # a GPU: hours
    python experiments/scale_decoder.py --smoke               # does it run at all?

Pre-trains tokenizers with one encoder and pixel decoders of several widths and depths,
jointly (VTP) and on reconstruction alone (AE), as in the decoder-scaling figure of the
paper (arXiv 2512.13687, figure 7c). Every tokenizer then gets a new pixel decoder of
the same size, trained on its frozen latents, and the same diffusion transformer. What
changes: reconstruction alone, or generation too?
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

from collections.abc import Sequence
import functools

import tyro

from vtp_eqx.study.command import run_study, Scale, Study, StudyOptions
from vtp_eqx.study.figure import curves_figure
from vtp_eqx.study.recipe import RECIPES, run, vit_decoder
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.study.summary import baseline_sentences, trend_sentence


DECODERS: dict[Scale, list[tuple[int, int]]] = {  # (width, depth)
    "smoke": [(48, 1), (96, 2)],
    "laptop": [(48, 1), (96, 2), (192, 4)],
    "workstation": [(48, 1), (96, 2), (192, 4), (384, 8)],
}
METHODS = ("AE", "VTP")
SMOKE = METHODS[:1]  # every decoder compiles steps of its own


def plan(scale: Scale, seeds: Sequence[int]) -> list[RunSpec]:
    """Every run: decoder sizes x methods x seeds."""
    return [
        run(RECIPES[scale], method, f"{width}x{depth}", seed,
            decoder=vit_decoder(width, depth))
        for width, depth in DECODERS[scale]
        for method in (SMOKE if scale == "smoke" else METHODS)
        for seed in seeds
    ]  # fmt: skip


if __name__ == "__main__":
    run_study(
        Study(
            name="scale_decoder",
            title="Generation by the size of the pixel decoder",
            question=__doc__,
            plan=plan,
            figure=functools.partial(curves_figure, x_label="decoder: width x depth"),
            summary=lambda rows: (
                baseline_sentences(rows, "VTP")
                + trend_sentence(rows, METHODS, "decoder size")
            ),
        ),
        tyro.cli(StudyOptions, default=StudyOptions(seeds=3), description=__doc__),
    )
