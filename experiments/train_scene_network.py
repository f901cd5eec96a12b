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
import itertools
from pathlib import Path
import time
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro

from vtp_eqx.data.loader import batches
from vtp_eqx.evaluation.scene_metrics import attribute_agreement, read_scenes
from vtp_eqx.files import require_local
from vtp_eqx.frozen.scene_network import (
    save_scene_network,
    scale_features,
    SceneNetwork,
    SceneNetworkConfig,
    Target,
)
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.scenes.render import render, SceneConfig, Scenes, STUDY_DIFFICULTY


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training of a scene network."""

    network: SceneNetworkConfig
    scenes: SceneConfig
    validation: SceneConfig
    num_epochs: int = 4
    batch_size: int = 120
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    seed: int = 0


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


def train(config: TrainConfig, scenes: Scenes) -> SceneNetwork:
    """A network trained on `scenes`, a function of `config` alone."""
    num_batches = len(scenes.image) // config.batch_size
    num_steps = config.num_epochs * num_batches
    schedule = optax.warmup_cosine_decay_schedule
    rate = schedule(0.0, config.learning_rate, config.warmup_steps, num_steps)
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    network = SceneNetwork(config.network, key=jr.key(config.seed))
    opt_state = optimizer.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit(donate="all")
    def step(network, opt_state, batch):
        loss, gradients = eqx.filter_value_and_grad(mean_loss)(network, batch)
        weights = eqx.filter(network, eqx.is_array)
        updates, opt_state = optimizer.update(gradients, opt_state, weights)
        return eqx.apply_updates(network, updates), opt_state, loss

    columns = {"image": scenes.image, "class": scenes.label, **scenes.attributes}
    endless = batches(columns, config.batch_size, seed=config.seed)
    start = time.process_time()
    for number, batch in enumerate(itertools.islice(endless, num_steps), 1):
        network, opt_state, loss = step(network, opt_state, batch)
        if number % num_batches == 0:
            print(f"loss {loss:.4f}, {time.process_time() - start:.0f} s", flush=True)
    return network


def mean_loss(network, batch):
    """Cross-entropies of what it predicts, summed, averaged over the batch."""
    logits = jax.vmap(network)(batch["image"].astype(jnp.float32) / 255).logits
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.mean(sum(entropy(logits[name], batch[name]) for name in logits))


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
    shape = dataclasses.replace(config.network, target=target)
    config = dataclasses.replace(config, network=shape)
    scenes = render(config.scenes, config.scenes.train_indices)
    network = train(config, scenes)
    # A mean variance of 1 gives distances a readable scale.
    variance = np.var(read_scenes(network, scenes.image[:4_800]).features, axis=0)
    network = scale_features(network, np.float32(1 / np.sqrt(np.mean(variance))))
    test = render(config.validation, config.validation.validation_indices)
    answers = {"class": test.label, **test.attributes}
    accuracy = attribute_agreement(read_scenes(network, test.image), answers)
    print(*(f"{name:12s} {share:.4f}" for name, share in accuracy.items()), sep="\n")
    digest = save_scene_network(network, folder, accuracy, dataclasses.asdict(config))
    print(f"sha256 {digest}")


if __name__ == "__main__":
    with exit_with_message(ValueError):
        tyro.cli(main)
