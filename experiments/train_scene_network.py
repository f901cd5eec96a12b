"""Trains the network whose features measure distances between scenes.

    python experiments/train_scene_network.py            # 32 pixels, 12 minutes
    python experiments/train_scene_network.py --size 64  # 64 pixels, 40 minutes

Writes weights and record (`--folder vtp_eqx/weights/scenes_32` replaces the shipped
ones) and prints accuracies on validation scenes. One machine writes the same bytes.
"""

import os


# Before JAX is imported: one thread on one processor sums in one order.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from vtp_eqx.evaluation.scene_metrics import attribute_agreement, read_scenes
from vtp_eqx.files import require_local
from vtp_eqx.frozen.scene_network import (
    HEADS,
    save_scene_network,
    SceneNetworkConfig,
    Target,
)
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.train_scene_network import SceneNetworkTraining, train_scene_network
from vtp_eqx.scenes.render import render, SceneConfig, STUDY_DIFFICULTY


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(SceneNetworkTraining):
    """One training of a scene network, and its scenes."""

    scenes: SceneConfig
    validation: SceneConfig


NETWORKS = {
    32: SceneNetworkConfig(),
    64: SceneNetworkConfig(image_size=64, widths=(24, 32, 64, 96), blocks=(1, 1, 2, 1)),
}
SCENES = SceneConfig(difficulty=STUDY_DIFFICULTY)
CONFIGS = {
    size: TrainConfig(
        network=network,
        # A seed of its own: no scene that is ever measured was learned by heart.
        scenes=dataclasses.replace(SCENES, size=size, num_train=60_000, seed=7919),
        validation=dataclasses.replace(SCENES, size=size),
    )
    for size, network in NETWORKS.items()
}
SMOKE = dataclasses.replace(
    CONFIGS[32], num_epochs=1, scenes=SceneConfig(num_train=240, seed=7919),
    warmup_steps=1, validation=SceneConfig(num_validation=240),
)  # fmt: skip


def main(
    folder: Path = Path("runs/scene_network"),
    *,
    size: Literal[32, 64] = 32,
    target: Target = "attributes",
    smoke: bool = False,
) -> None:
    """Trains, validates, and writes weights and record to `folder`.

    Args:
        folder: where they go; the shipped ones are in `vtp_eqx/weights`.
        size: side of the scenes, in pixels.
        target: what it predicts: every attribute, or the class alone, for FD-classes.
        smoke: only try that everything runs, on a few hundred scenes of 32 pixels.
    """
    require_local(folder, "folder")
    config = SMOKE if smoke else CONFIGS[size]
    shape = dataclasses.replace(config.network, heads=HEADS[target])
    config = dataclasses.replace(config, network=shape)
    scenes = render(config.scenes, config.scenes.train_indices)
    attributes = {"class": scenes.label, **scenes.attributes}
    network = train_scene_network(config, scenes.image, attributes)
    test = render(config.validation, config.validation.validation_indices)
    answers = {"class": test.label, **test.attributes}
    accuracy = attribute_agreement(read_scenes(network, test.image), answers)
    print(*(f"{name:12s} {share:.4f}" for name, share in accuracy.items()), sep="\n")
    digest = save_scene_network(network, folder, accuracy, dataclasses.asdict(config))
    print(f"sha256 {digest}")


if __name__ == "__main__":
    with exit_with_message(ValueError, OSError):
        tyro.cli(main)
