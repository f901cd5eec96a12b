"""A control: the same latents in a random orthogonal basis.

A generator is trained on latents that are normalized channel by channel. Rotating the
channels first changes what that normalization does, and nothing else: information,
reconstruction and the distances between latents stay as they are.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.models.tokenizer import Tokenizer


def rotate_latents(tokenizer: Tokenizer, *, key: PRNGKeyArray) -> Tokenizer:
    """`tokenizer` with its latent channels multiplied by a random orthogonal matrix.

    The matrix is folded into the bottleneck and into what reads the latents, so that
    reconstructions and embeddings are the same up to rounding. Latent statistics must
    be measured again: they become those of a new tokenizer, 0 and 1.
    """
    width = tokenizer.config.latent_width
    turn = random_rotation(width, key=key)
    rotated = eqx.tree_at(
        lambda tokenizer: (tokenizer.bottleneck.weight, tokenizer.decoder.embed.weight),
        tokenizer.with_statistics(jnp.zeros(width), jnp.ones(width)),
        (
            _product(turn, tokenizer.bottleneck.weight),
            _product(tokenizer.decoder.embed.weight, turn.T),
        ),
    )
    if tokenizer.projection is None or tokenizer.config.heads_input == "full":
        return rotated
    return eqx.tree_at(
        lambda tokenizer: tokenizer.projection.weight,
        rotated,
        _product(tokenizer.projection.weight, turn.T),
    )


def random_rotation(
    width: int, *, key: PRNGKeyArray
) -> Float[Array, "{width} {width}"]:
    """A random orthogonal matrix, uniformly distributed."""
    return jax.nn.initializers.orthogonal()(key, (width, width), jnp.float32)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
