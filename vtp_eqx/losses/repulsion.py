"""Repulsion of features from those in a memory bank, without positives."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from vtp_eqx.losses.checks import require_finite, require_positive
from vtp_eqx.losses.chunked_vmap import chunked_vmap
from vtp_eqx.losses.cosines import pairwise_cosine


def repulsion_loss(
    features: Float[Array, "batch width"],
    bank: Float[Array, "bank width"],
    *,
    temperature: ScalarLike,
    block: int | None = None,
) -> Float[Array, " batch"]:
    """How near features are to those in the bank, as a contrast with negatives alone.

    - `features`, `bank`: unit-norm. A row of zeros in the bank is empty.
    - `temperature`: what squared distances are divided by.
    - `block`: rows at a time; `None`: see `vtp_eqx.losses.chunked_vmap`.

    For each row, the log of the mean of `exp(-squared distance / temperature)` over the
    bank: from `-4 / temperature`, opposite to all of it, to 0, equal to all of it; 0
    too where the bank is empty. The rows of the bank get no gradient.

    Zhang et al. 2025 (Repulsor), https://arxiv.org/abs/2512.08648, with the loss of
    Wang and He 2025 (Dispersive Loss), https://arxiv.org/abs/2506.09027, on the sphere.
    """
    require_finite(features=features, bank=bank)
    require_positive(temperature=temperature)
    bank = jax.lax.stop_gradient(bank)
    is_filled = jnp.any(bank != 0, axis=-1)
    count = jnp.sum(is_filled)

    def nearness(feature: Array) -> Array:
        squared = 2 - 2 * pairwise_cosine(feature[None], bank)[0]
        # Finite where nothing is: infinity would have no gradient.
        logits = jnp.where(is_filled, -squared / temperature, -1e30)
        mean = jax.nn.logsumexp(logits) - jnp.log(jnp.maximum(count, 1))
        return jnp.where(count > 0, mean, 0.0)

    return chunked_vmap(nearness, features, columns=len(bank), block=block)


def enqueued(
    bank: Float[Array, "bank width"], features: Float[Array, "batch width"]
) -> Float[Array, "bank width"]:
    """The bank with new features in front; the oldest leave it.

    Of more features than it holds, the first.
    """
    return jnp.concatenate([features, bank])[: len(bank)]
