"""What a version writes, for later versions to read: a run, a tokenizer and a card.

python -m tests.written_files tests/golden/previous

Called with the code of a tagged version. `continued.jsonl` is what one step more
made of the run, which a later version has to make of it too.
"""

import tests.conftest  # noqa: F401  # isort: skip - compiled as in the tests

import json
from pathlib import Path
import shutil
import sys
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.training.conftest import (
    captioned,
    init_on_one_device,
    smooth_images,
    tiny_config,
)
from vtp_eqx import __version__
from vtp_eqx.config import PretrainConfig, SamplerConfig
from vtp_eqx.evaluation import card
from vtp_eqx.mesh import data_mesh, replicate
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.runs.loop import run_training
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.state import copy_arrays


NUM_STEPS = 2  # before the run is continued
NUMBERS = {"gFD-scenes": 12.5, "precision": 0.75}


def write(folder: Path) -> None:
    """Writes all of it to a folder, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_run(folder)
    write_models(folder)
    (folder / "version.json").write_text(json.dumps({"version": __version__}) + "\n")


def write_run(folder: Path) -> None:
    """A run of two steps, and what one more makes of it."""
    config, data = tiny_config(), smooth_images()
    train(folder / "run", NUM_STEPS, config, data)
    with tempfile.TemporaryDirectory() as scratch:
        longer = Path(scratch) / "run"
        shutil.copytree(folder / "run", longer)
        train(longer, NUM_STEPS + 1, config, data)
        *_, line = (longer / "metrics.jsonl").read_text().splitlines()
        (folder / "continued.jsonl").write_text(line + "\n")
    for path in (folder / "run").glob("*.lock"):
        path.unlink()


def write_models(folder: Path) -> None:
    """The run's tokenizer as saved by itself, and a card of it."""
    tokenizer = load(folder / "run")
    mean = jnp.linspace(-1, 1, tokenizer.config.latent_width)
    tokenizer = tokenizer.with_statistics(mean, 1 + abs(mean))
    save(tokenizer, folder / "tokenizer")
    made = card.EvaluationCard(
        num_samples=50, num_reference=60, reference_hash="ab12",
        tokenizer_hash=weights_hash(tokenizer), latents_hash=latents_hash(tokenizer),
        precision="float32", feature_network="scene-network", feature_hash="cd34",
        sampler=SamplerConfig(guidance=1.5), labels="balanced", generator_hash="ef56",
        generator_latents_hash=latents_hash(tokenizer),
    )  # fmt: skip
    skipped = {"a.png": "cut short"}
    path = folder / "card.json"
    card.write(path, NUMBERS, made, num_evaluated=50, skipped=skipped)


def train(
    folder: Path, num_steps: int, config: PretrainConfig, data: dict[str, np.ndarray]
) -> Any:
    """The smallest pre-training, or its continuation, on one device; its last state."""
    state, step = init_on_one_device(config)
    mesh = data_mesh(1)
    return run_training(
        replicate(copy_arrays(state), mesh), step,
        lambda first: captioned(config, data, first), num_steps=num_steps, mesh=mesh,
        folder=folder, log_every=1, save_every=NUM_STEPS, config=config,
    )  # fmt: skip


if __name__ == "__main__":
    write(Path(sys.argv[1]))
