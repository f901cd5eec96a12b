"""What a pre-training shows of itself: numbers and images on the way, and a report."""

from collections.abc import Mapping

import numpy as np

from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, write_card
from vtp_eqx.mesh import gather_to_host
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.curves import draw_curves
from vtp_eqx.runs.loop import Callbacks
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.pictures import save_grid
from vtp_eqx.runs.pretrain_setup import PretrainSetup
from vtp_eqx.runs.report import write_report
from vtp_eqx.training.monitors import collapse_monitor
from vtp_eqx.training.state import TrainState


MONITOR_IMAGES = 64  # ours: for each line of the log
GRID_IMAGES = 8


def pretrain_callbacks(setup: PretrainSetup) -> Callbacks:
    """Evaluates, draws reconstructions and curves, and ranks checkpoints.

    The best checkpoint is that of the best probe, or of the lowest loss.
    """
    options, figures = setup.options, setup.out / "figures"
    images = setup.eval_images.image

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        tokenizer = gather_to_host(state.student.tokenizer)
        some = images[:GRID_IMAGES]
        rows = np.concatenate([some, reconstruct_images(tokenizer, some)])
        if is_main_process():
            save_grid(rows, figures / f"reconstructions-{step:07d}.png", len(some))
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
        cost=setup.step_cost,
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


def _evaluate(setup: PretrainSetup, tokenizer: Tokenizer) -> dict[str, float]:
    return evaluate_tokenizer(
        tokenizer, setup.probe_images, setup.eval_images, setup.prompts
    )
