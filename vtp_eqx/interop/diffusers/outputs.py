"""What a tokenizer computes, as its PyTorch file takes and returns it."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Shaped

from vtp_eqx.models.tokenizer import Tokenizer


Arrays = dict[str, Shaped[Array, "..."]]


def autoencoder_outputs(tokenizer: Tokenizer) -> tuple[Arrays, Arrays]:
    """Images in [-1, 1] with channels first, and our latents and images of them."""
    size = tokenizer.config.image_size
    images = jr.uniform(jr.key(0), (2, size, size, 3))
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = jax.vmap(tokenizer.decode)(latents)
    inputs = {"images": jnp.moveaxis(2 * images - 1, -1, 1)}
    outputs = {
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(2 * decoded - 1, -1, 1),
    }
    return inputs, outputs
