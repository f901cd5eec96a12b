"""The pixel terms that decoders learn from, weighted as a config says."""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.config import ReconstructionConfig, require
from vtp_eqx.frozen.lpips import blank_perceptual, Perceptual
from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss


Images = Float[Array, "batch height width 3"]


def pixel_loss(
    rebuilt: Images,
    targets: Images,
    config: ReconstructionConfig,
    perceptual: Callable[[Array, Array], Array] | None,
    denormalize: Callable[[Array], Array],
) -> Float[Array, " batch"]:
    """The weighted pixel terms of each image; both are in normalized pixel space.

    L1 and LPIPS are the paper's (section 3.2, equation 1). LPIPS, the `perceptual`
    distance, looks at what `denormalize` makes of both: colors in [0, 1], not clipped.
    """

    def lpips_loss(rebuilt: Images, targets: Images) -> Float[Array, " batch"]:
        assert perceptual is not None
        unit = denormalize(rebuilt), lax.stop_gradient(denormalize(targets))
        return jax.vmap(perceptual)(*unit)

    weights: list[tuple[float, Callable[[Array, Array], Array]]] = [
        (config.l1_weight, l1_loss),
        (config.pooled_weight, pooled_l1_loss),
        (config.gradient_weight, gradient_l1_loss),
        (config.perceptual_weight, lpips_loss),
    ]
    used = [weight * loss(rebuilt, targets) for weight, loss in weights if weight > 0]
    return sum(used, jnp.zeros(len(targets), jnp.float32))


def blank_perceptual_if_used(config: ReconstructionConfig) -> Perceptual | None:
    """A network without weights where LPIPS is learned from: for costs, not numbers."""
    return blank_perceptual() if config.uses_perceptual else None


def require_perceptual_weights(
    config: ReconstructionConfig, perceptual: Perceptual | None
) -> None:
    """Raises `ValueError` where LPIPS is asked for without its network."""
    require(
        not config.uses_perceptual or perceptual is not None,
        "LPIPS needs the published weights of its network, but there are none for a "
        f"`perceptual_weight` of {config.perceptual_weight}: load them "
        "(`load_perceptual`, or `--perceptual`), or set the weight to 0.",
    )
