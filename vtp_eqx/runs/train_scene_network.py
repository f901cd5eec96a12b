"""The job of training a scene network, on attributes of scenes or of other images."""

from collections.abc import Mapping
import dataclasses
import itertools
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
import numpy as np
import optax

from vtp_eqx.data.loader import batches
from vtp_eqx.evaluation.scene_metrics import read_scenes
from vtp_eqx.frozen.scene_network import (
    scale_features,
    SceneNetwork,
    SceneNetworkConfig,
)


SCALED_ON = 4_800  # ours: training images over which features are scaled


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneNetworkTraining:
    """One training of a scene network. All values are ours."""

    network: SceneNetworkConfig
    num_epochs: int = 4
    batch_size: int = 120
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    # Images are moved at random by so many pixels at most, along either side: for few
    # images, none of whose attributes is a position.
    shift: int = 0
    seed: int = 0


def train_scene_network(
    config: SceneNetworkTraining,
    images: UInt8[np.ndarray, "num height width 3"],
    attributes: Mapping[str, Int[np.ndarray, " num"]],
) -> SceneNetwork:
    """A network trained to read `attributes`, a function of the arguments alone.

    On one thread of one processor to the bit, as it sums in one order there. Its
    features have a mean variance of 1 over training images, which gives distances a
    readable scale.
    """
    num_batches = len(images) // config.batch_size
    num_steps = config.num_epochs * num_batches
    schedule = optax.warmup_cosine_decay_schedule
    rate = schedule(0.0, config.learning_rate, config.warmup_steps, num_steps)
    optimizer = optax.adamw(rate, weight_decay=config.weight_decay)
    network = eqx.filter_jit(SceneNetwork)(config.network, key=jr.key(config.seed))
    opt_state = optimizer.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit(donate="all")
    def step(network, opt_state, batch, key):
        if config.shift > 0:
            keys = jr.split(key, config.batch_size)
            shifted = jax.vmap(lambda image, key: _shifted(image, key, config.shift))
            batch = batch | {"image": shifted(batch["image"], keys)}
        loss, gradients = eqx.filter_value_and_grad(_mean_loss)(network, batch)
        weights = eqx.filter(network, eqx.is_array)
        updates, opt_state = optimizer.update(gradients, opt_state, weights)
        return eqx.apply_updates(network, updates), opt_state, loss

    columns = {"image": images, **attributes}
    endless = batches(columns, config.batch_size, seed=config.seed)
    start, losses = time.process_time(), []
    for number, batch in enumerate(itertools.islice(endless, num_steps), 1):
        key = jr.fold_in(jr.key(config.seed), number)
        network, opt_state, loss = step(network, opt_state, batch, key)
        losses.append(loss)
        if number % num_batches == 0:
            print(
                f"epoch {number // num_batches}: loss {np.mean(losses[-100:]):.4f} "
                f"nats, {time.process_time() - start:.0f} cpu seconds"
            )
    features = read_scenes(network, images[:SCALED_ON]).features
    variance = np.mean(np.var(features, axis=0))
    return scale_features(network, np.float32(1 / np.sqrt(variance)))


def _mean_loss(network: SceneNetwork, batch: Mapping[str, Any]) -> Float[Array, ""]:
    """Cross-entropies of all attributes, summed, averaged over the batch."""
    logits = jax.vmap(network)(batch["image"].astype(jnp.float32) / 255).logits
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.mean(sum(entropy(logits[name], batch[name]) for name in logits))


def _shifted(image: Array, key: PRNGKeyArray, most: int) -> Array:
    """An image moved at random; its edge is repeated where nothing was."""
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    row, column = jr.randint(key, (2,), 0, 2 * most + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
