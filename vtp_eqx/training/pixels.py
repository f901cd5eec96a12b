"""The pixel terms that decoders learn from, weighted as a config says."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import ReconstructionConfig
from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss


def pixel_loss(
    rebuilt: Float[Array, "batch height width 3"],
    targets: Float[Array, "batch height width 3"],
    config: ReconstructionConfig,
) -> Float[Array, " batch"]:
    """The weighted pixel terms of each image; both are in normalized pixel space."""
    weights: list[tuple[float, Callable[[Array, Array], Array]]] = [
        (config.l1_weight, l1_loss),
        (config.pooled_weight, pooled_l1_loss),
        (config.gradient_weight, gradient_l1_loss),
    ]
    used = [weight * loss(rebuilt, targets) for weight, loss in weights if weight > 0]
    return sum(used, jnp.zeros(len(targets), jnp.float32))
