"""Outputs of a pre-training: numbers and pictures on the way, and a report."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vtp_eqx.data.bad_examples import read_bad_examples
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, write_card
from vtp_eqx.files import write_text
from vtp_eqx.mesh import gather_to_host
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.loop import Callbacks
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.pictures import draw_curves, save_reconstructions
from vtp_eqx.runs.pretrain_setup import PretrainSetup
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.monitors import collapse_monitor
from vtp_eqx.training.state import TrainState


MONITOR_IMAGES = 64  # ours: for each line of the log


def pretrain_callbacks(setup: PretrainSetup) -> Callbacks:
    """Evaluates, draws reconstructions and curves, and ranks checkpoints.

    The best checkpoint is that of the best probe, or of the lowest loss.
    """
    options, figures = setup.options, setup.out / "figures"
    images = setup.eval_images.image

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        tokenizer = gather_to_host(state.student.tokenizer)
        if is_main_process():
            save_reconstructions(tokenizer, images, figures, step)
        return _evaluate(setup, tokenizer)

    def draw(step: int, values: Mapping[str, float]) -> None:
        if "psnr" in values:  # after an evaluation
            draw_curves(setup.out / "metrics.jsonl", figures / "curves.png")

    return Callbacks(
        monitor=collapse_monitor(
            images[:MONITOR_IMAGES],
            temperature=setup.config.distillation.student_temperature,
        ),
        evaluate=evaluate,
        evaluate_every=options.evaluate_every,
        score=lambda values: values.get("probe", -values.get("total", np.inf)),
        sinks=[*setup.sinks, draw],
        cost=StepCost(
            images=setup.config.batch_size,
            flops=setup.dry_run.formula_flops,
            peak=setup.dry_run.peak,
        ),
        rows=setup.batches.rows,
    )


def write_results(
    setup: PretrainSetup, tokenizer: Tokenizer, *, latents_of: str, command: str
) -> None:
    """Evaluates the finished tokenizer, and writes `card.json` and `report.md`.

    - `latents_of`: which images its latent statistics were measured on.
    - `command`: what was typed.
    """
    numbers, config = _evaluate(setup, tokenizer), setup.config
    write_card(
        setup.out / "card.json", numbers, tokenizer, setup.probe_images,
        setup.eval_images, seed=config.seed, latents_of=latents_of,
    )  # fmt: skip
    text = (
        f"{config.num_steps:,} steps of {config.batch_size} images out of "
        f"{len(setup.train):,}."
    )
    write_report(setup.out, numbers, command=command, text=text)


def write_report(
    folder: Path, numbers: Mapping[str, float], *, command: str, text: str
) -> None:
    """Writes `report.md` from what is in the folder of a run.

    - `numbers`: of the finished tokenizer; what they depend on is in `card.json`.
    - `text`: a sentence or two on what was run.
    """
    lines = read_log(folder / "metrics.jsonl")
    last = lines[-1] if lines else {}
    grids = sorted((folder / "figures").glob("reconstructions-*.png"))
    pictures = [("curves", folder / "figures" / "curves.png")]
    pictures += [("images, and what came back of them", path) for path in grids[-1:]]
    parts = [
        "# A pre-trained tokenizer",
        f"`{command}`",
        f"{text} {_problems(folder, last)}",
        _table("the finished tokenizer", numbers),
        "What they depend on is in [card.json](card.json). They are for curves; those "
        "for comparisons are made by `experiments/evaluate.py`.",
        *(
            f"![{title}]({path.relative_to(folder)})"
            for title, path in pictures
            if path.exists()
        ),
        _table("the last line of the log", last),
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")


def _evaluate(setup: PretrainSetup, tokenizer: Tokenizer) -> dict[str, float]:
    return evaluate_tokenizer(
        tokenizer, setup.probe_images, setup.eval_images, setup.prompts
    )


def _problems(folder: Path, last: Mapping[str, float]) -> str:
    counts = Counter(
        bad.skipped
        for path in folder.glob("bad_examples-*.jsonl")
        for bad in read_bad_examples(path)
    )
    return (
        f"{counts[True]} unreadable examples, {counts[False]} repaired, "
        f"{last.get('num_skipped', 0):.0f} steps skipped, "
        f"{last.get('rollbacks', 0):.0f} rollbacks."
    )


def _table(title: str, numbers: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.5g} |" for name, value in numbers.items()]
    return "\n".join([f"| {title} | |", "|---|---|", *rows])
