"""Losses of a discriminator and of the generator that learns from it.

A discriminator gives an image one logit or more: above 0 it takes it for real. Every
loss averages over an image's logits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vtp_eqx.losses.checks import require_finite


Logits = Float[Array, "batch *positions"]
Scalar = Float[Array, ""]


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Float[Array, " batch"]:
    """Half the hinge losses of a real and of a fake image: 0 where both are known.

    Past a margin of 1 an image counts no more. Lim and Ye 2017,
    https://arxiv.org/abs/1705.02894; the half is VQGAN's.
    """
    require_finite(real=real, fake=fake)
    return (_mean(jax.nn.relu(1 - real)) + _mean(jax.nn.relu(1 + fake))) / 2


def generator_loss(fake: Logits) -> Float[Array, " batch"]:
    """How fake a discriminator takes each image for: its mean logit, negated."""
    require_finite(fake=fake)
    return -_mean(fake)


def lecam_loss(
    real: Logits, fake: Logits, *, real_mean: Scalar, fake_mean: Scalar
) -> Float[Array, " batch"]:
    """Squares by which logits of real images exceed those of fake ones, and vice versa.

    Each is compared with the moving average of the other kind's, `fake_mean` or
    `real_mean`, so that a discriminator does not run away from its past. With relu, as
    tokenizers are trained with it (MaskGIT's and later ones). Tseng et al. 2021,
    https://arxiv.org/abs/2104.03310, equation 5.
    """
    require_finite(real=real, fake=fake)
    above = jax.nn.relu(real - fake_mean) ** 2
    below = jax.nn.relu(real_mean - fake) ** 2
    return _mean(above) + _mean(below)


def _mean(values: Logits) -> Float[Array, " batch"]:
    return jnp.mean(values.astype(jnp.float32), axis=tuple(range(1, values.ndim)))
