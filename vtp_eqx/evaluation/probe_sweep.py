"""The linear probe of DINOv2 and VTP: many learning rates at once, by SGD.

Classifiers that differ in learning rate and features learn side by side from the same
batches; they share nothing. The published number is the best of them all, after any
epoch, *on the images that are then quoted*: it is selected on the test set. The probe
of `understanding` is not.

Oquab et al. 2023 (DINOv2), https://arxiv.org/abs/2304.07193, section 7.1.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np
import optax

from vtp_eqx.config import require


EVALUATED = 2048  # test rows classified at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """One sweep of linear probes."""

    rates: tuple[float, ...] = (
        1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1,
    )  # code: for a batch of 256  # fmt: skip
    batch_size: int = 1024  # code: 128 on each of 8 GPUs
    num_epochs: int = 10  # code
    epoch_steps: int = 1250  # code
    momentum: float = 0.9  # code
    init_std: float = 0.01  # code
    augment: bool = True  # code; without, each image is encoded once, and not cropped
    seed: int = 0

    def __post_init__(self):
        require(
            bool(self.rates) and min(self.rates) > 0,
            f"`rates` are positive learning rates; got {self.rates}: give some.",
        )
        require(
            min(self.batch_size, self.num_epochs, self.epoch_steps) > 0,
            "A sweep takes steps; got "
            f"{self.num_epochs} x {self.epoch_steps} of {self.batch_size} images: "
            "make all positive.",
        )

    @property
    def num_steps(self) -> int:
        """Steps of the whole sweep."""
        return self.num_epochs * self.epoch_steps

    def rates_at(self, step: int) -> Float[np.ndarray, " rates"]:
        """The learning rates of a step: scaled by the batch, and by cosine to 0."""
        cosine = (1 + math.cos(math.pi * step / self.num_steps)) / 2
        scale = cosine * self.batch_size / 256
        return np.asarray(self.rates, np.float32) * np.float32(scale)


class Linears(eqx.Module):
    """A linear classifier for each learning rate, on one kind of features."""

    weight: Float[Array, "rates width classes"]
    bias: Float[Array, "rates classes"]

    def __call__(
        self, features: Float[Array, "batch width"]
    ) -> Float[Array, "rates batch classes"]:
        return jnp.einsum("bw,rwc->rbc", features, self.weight) + self.bias[:, None]


class Sweep(eqx.Module):
    """All classifiers, by the kind of features they read, and their momentum."""

    linears: dict[str, Linears]
    velocity: dict[str, Linears]


def start(
    config: SweepConfig, widths: Mapping[str, int], classes: int, *, key: PRNGKeyArray
) -> Sweep:
    """Classifiers before the first step, for features of these widths by kind."""
    rates = len(config.rates)
    linears = {
        # The same start for every rate, which then is all that tells them apart.
        kind: Linears(
            jnp.broadcast_to(
                config.init_std * jr.normal(one, (width, classes), jnp.float32),
                (rates, width, classes),
            ),
            jnp.zeros((rates, classes), jnp.float32),
        )
        for (kind, width), one in zip(
            widths.items(), jr.split(key, len(widths)), strict=True
        )
    }
    return Sweep(linears, jax.tree.map(jnp.zeros_like, linears))


@eqx.filter_jit
def step(
    sweep: Sweep,
    features: dict[str, Float[Array, "batch ..."]],
    labels: Int[Array, " batch"],
    rates: Float[Array, " rates"],
    momentum: float,
) -> Sweep:
    """One step of SGD: `v = momentum v + gradient`, then `weight -= rate v`."""

    def total(linears: dict[str, Linears]) -> Float[Array, ""]:
        # A sum over classifiers, so that each has the gradient of its own mean.
        losses = []
        for kind, classifiers in linears.items():
            logits = classifiers(features[kind])
            answers = jnp.broadcast_to(labels, logits.shape[:-1])
            each = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
            losses.append(each.mean(axis=1).sum())
        return jnp.stack(losses).sum()

    gradient = jax.grad(total)(sweep.linears)
    velocity = jax.tree.map(lambda v, g: momentum * v + g, sweep.velocity, gradient)
    scaled = lambda v: v * rates.reshape(-1, *[1] * (v.ndim - 1))
    linears = jax.tree.map(lambda w, v: w - scaled(v), sweep.linears, velocity)
    return Sweep(linears, velocity)


def accuracies(
    sweep: Sweep,
    config: SweepConfig,
    features: Mapping[str, Float[np.ndarray, "test ..."]],
    labels: Int[np.ndarray, " test"],
) -> dict[str, float]:
    """The share of rows that each classifier gets right, by features and rate."""
    found = {}
    for kind, linears in sweep.linears.items():
        right = np.zeros(len(config.rates), np.int64)
        for first in range(0, len(labels), EVALUATED):
            rows = slice(first, first + EVALUATED)
            right += np.asarray(_right(linears, features[kind][rows], labels[rows]))
        for rate, count in zip(config.rates, right, strict=True):
            found[f"{kind}, rate {rate:g}"] = float(count / len(labels))
    return found


@eqx.filter_jit
def _right(linears: Linears, features: Any, labels: Any) -> Array:
    return jnp.sum(jnp.argmax(linears(features), axis=-1) == labels, axis=-1)
