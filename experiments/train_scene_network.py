"""Trains the network whose features measure distances between scenes.

    python experiments/train_scene_network.py            # 32 pixels, 12 minutes
    python experiments/train_scene_network.py --size 64  # 64 pixels, 40 minutes

With `--folder vtp_eqx/weights/scenes_32` it replaces the shipped one.

Writes the weights and their record, and prints the accuracy of each attribute on
validation scenes. The same command on the same machine writes the same bytes.
"""

import os


# Before JAX is imported: one thread on one processor sums in one order.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import dataclasses
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

from vtp_eqx.evaluation.scene_metrics import attribute_agreement, read_scenes
from vtp_eqx.frozen.scene_network import (
    save_scene_network,
    SceneNetwork,
    SceneNetworkConfig,
)
from vtp_eqx.scenes.render import render, SceneConfig, Scenes


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


# As hard as the scenes of the studies (`vtp_eqx.study.recipe`).
DIFFICULTY = 0.7
CONFIGS = {
    size: TrainConfig(
        network=network,
        # A seed of its own: no scene that is ever measured was learned by heart.
        scenes=SceneConfig(
            size=size, difficulty=DIFFICULTY, num_train=60_000, seed=7919
        ),
        validation=SceneConfig(size=size, difficulty=DIFFICULTY),
    )
    for size, network in (
        (32, SceneNetworkConfig()),
        (
            64,
            SceneNetworkConfig(
                image_size=64, widths=(24, 32, 64, 96), blocks=(1, 1, 2, 1)
            ),
        ),
    )
}
SMOKE = dataclasses.replace(
    CONFIGS[32],
    scenes=SceneConfig(num_train=240, seed=7919),
    validation=SceneConfig(num_validation=240),
    num_epochs=1,
    warmup_steps=1,
)


def train(config: TrainConfig) -> SceneNetwork:
    """A network trained on freshly rendered scenes, a function of `config` alone."""
    scenes = render(config.scenes, config.scenes.train_indices)
    num_batches = len(scenes.image) // config.batch_size
    num_steps = config.num_epochs * num_batches
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, num_steps
    )
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    network = SceneNetwork(config.network, key=jr.key(config.seed))
    opt_state = optimizer.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit(donate="all")
    def step(network, opt_state, images, attributes):
        loss, gradients = eqx.filter_value_and_grad(mean_loss)(
            network, images, attributes
        )
        updates, opt_state = optimizer.update(
            gradients, opt_state, eqx.filter(network, eqx.is_array)
        )
        return eqx.apply_updates(network, updates), opt_state, loss

    start = time.process_time()
    for epoch in range(config.num_epochs):
        order = np.random.default_rng((config.seed, epoch)).permutation(
            len(scenes.image)
        )
        losses = []
        for batch in range(num_batches):
            rows = order[batch * config.batch_size : (batch + 1) * config.batch_size]
            network, opt_state, loss = step(
                network, opt_state, scenes.image[rows], attributes_of(scenes, rows)
            )
            losses.append(loss)
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses[-100:]):.4f} nats, "
            f"{time.process_time() - start:.0f} cpu seconds",
            flush=True,
        )
    return network


def mean_loss(network, images, attributes):
    """Cross-entropies of all attributes, summed, averaged over the batch."""
    logits = jax.vmap(network)(images.astype(jnp.float32) / 255).logits
    losses = [
        optax.softmax_cross_entropy_with_integer_labels(logits[name], attributes[name])
        for name in logits
    ]
    return jnp.mean(sum(losses))


def attributes_of(scenes: Scenes, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The attributes of those rows, as the step reads them."""
    return {name: column[rows] for name, column in scenes.attributes.items()}


def normalized(network: SceneNetwork, config: SceneConfig) -> SceneNetwork:
    """`network` with features scaled to a mean variance of 1 over its scenes.

    That gives distances a readable scale. The heads undo it, so predictions stay as
    they were: rectified features scale with their weights.
    """
    scenes = render(config, config.train_indices[:4_800])
    features = read_scenes(network, scenes.image).features
    scale = np.float32(1 / np.sqrt(np.mean(np.var(features, axis=0))))
    scaled = eqx.tree_at(
        lambda n: n.to_features,
        network,
        jax.tree.map(lambda leaf: leaf * scale, network.to_features),
    )
    return eqx.tree_at(
        lambda n: [head.weight for head in n.heads.values()],
        scaled,
        [head.weight / scale for head in network.heads.values()],
    )


def validate(network: SceneNetwork, config: SceneConfig) -> dict[str, float]:
    """The share of validation scenes whose attribute is read right, by attribute."""
    scenes = render(config, config.validation_indices)
    return attribute_agreement(read_scenes(network, scenes.image), scenes.attributes)


def main(folder: Path, config: TrainConfig) -> None:
    """Trains, validates, and writes weights and record to `folder`."""
    network = train(config)
    network = normalized(network, config.scenes)
    accuracy = validate(network, config.validation)
    for name, share in accuracy.items():
        print(f"{name:12s} {share:.4f}")
    digest = save_scene_network(network, folder, accuracy, dataclasses.asdict(config))
    print(f"sha256 {digest}")


def command(
    folder: Path = Path("runs/scene_network"),
    *,
    size: Literal[32, 64] = 32,
    smoke: bool = False,
) -> None:
    """Trains, validates, and writes weights and record to `folder`.

    Args:
        folder: where they go; the shipped ones are in `vtp_eqx/weights`.
        size: side of the scenes, in pixels.
        smoke: only try that everything runs, on a few hundred scenes of 32 pixels.
    """
    main(folder, SMOKE if smoke else CONFIGS[size])


if __name__ == "__main__":
    tyro.cli(command)
