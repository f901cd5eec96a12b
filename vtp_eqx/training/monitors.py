"""Monitors of collapse: rank, neighbor distances and prototype use.

They are taken on a small batch that stays the same, outside of the step, so that they
can be compared from one line of the log to the next.
"""

from collections.abc import Callable

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
import numpy as np

from vtp_eqx.mesh import gather_to_host
from vtp_eqx.models.heads import PrototypeHead
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.training.state import TrainState


def collapse_monitor(
    images: UInt8[np.ndarray, "num height width 3"],
    *,
    temperature: float,
) -> Callable[[TrainState], dict[str, float]]:
    """A function from the student to monitors of its features of 2 or more `images`.

    - `feature_rank`: the effective rank of the class tokens (1: all on a line).
    - `neighbor_distance`: from each unit-norm class token to the nearest other one.
    - `latent_deviation_least` and `latent_deviation_mean`: over the channels; a channel
      of deviation 0 says nothing.
    - `prototypes_used`: the effective number of prototypes that the patches and
      class tokens choose at the student's `temperature`, where there are any.

    Each process computes them by itself; all call it, where a state is split over them.
    """
    pixels = jnp.asarray(images, jnp.float32) / 255

    def monitor(state: TrainState) -> dict[str, float]:
        found = jax.device_get(
            _collapse_signs(gather_to_host(state.student), pixels, temperature)
        )
        return {name: float(value) for name, value in found.items()}

    return monitor


@eqx.filter_jit
def _collapse_signs(
    student: Pretrainer,
    images: Float[Array, "num height width 3"],
    temperature: float,
) -> dict[str, Float[Array, ""]]:
    tokenizer = student.tokenizer
    seen = tokenizer.encoder.batch(tokenizer.normalize(images))
    deviation = jnp.std(tokenizer.bottleneck(seen.readout.patches), axis=(0, 1))
    signs = {
        "feature_rank": effective_rank(seen.cls),
        "neighbor_distance": neighbor_distance(seen.cls),
        "latent_deviation_least": jnp.min(deviation),
        "latent_deviation_mean": jnp.mean(deviation),
    }
    if student.prototypes is not None:
        read = tokenizer.head_features(seen)
        tokens = jnp.concatenate([read.cls[:, None], read.patches], axis=1)
        signs["prototypes_used"] = num_prototypes_used(
            student.prototypes, tokens, temperature=temperature
        )
    return signs


def effective_rank(rows: Float[Array, "num width"]) -> Float[Array, ""]:
    """The exponential of the entropy of the singular values of the centered rows.

    1 where all lie on a line (or in a point), at most `min(num - 1, width)`. Roy and
    Vetterli 2007, https://www.eurasip.org/Proceedings/Eusipco/Eusipco2007.
    """
    centered = rows.astype(jnp.float32) - jnp.mean(rows, axis=0)
    values = jnp.linalg.svd(centered, compute_uv=False)
    return jnp.exp(_entropy(values / jnp.maximum(jnp.sum(values), 1e-30)))


def neighbor_distance(rows: Float[Array, "num width"]) -> Float[Array, ""]:
    """The mean distance of the unit-norm rows to their nearest other one, up to 2."""
    unit = unit_norm(rows.astype(jnp.float32))
    # Differences, not cosines: near collapse, those have no digits left.
    apart = jnp.linalg.norm(unit[:, None] - unit[None], axis=-1)
    return jnp.mean(jnp.min(apart + 4 * jnp.eye(len(rows)), axis=1))


def num_prototypes_used(
    head: PrototypeHead,
    tokens: Float[Array, "num tokens width"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """The exponential of the entropy of the mean choice among the prototypes.

    1 where every token chooses the same one, their number where all are chosen alike.
    """

    def choice(tokens):
        logits = head(tokens).astype(jnp.float32) / temperature
        return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)

    # Image by image: all logits at once would be gigabytes with the paper's 65,536.
    return jnp.exp(_entropy(jnp.mean(lax.map(choice, tokens), axis=0)))


def _entropy(shares: Float[Array, " num"]) -> Float[Array, ""]:
    logs = jnp.log(jnp.where(shares > 0, shares, 1))
    return -jnp.sum(shares * logs)
