"""What a tokenizer computes, in the published layout, to compare with its code."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Shaped

from vtp_eqx.models.tokenizer import Tokenizer


Arrays = dict[str, Shaped[Array, "..."]]


def tokenizer_outputs(tokenizer: Tokenizer) -> tuple[Arrays, Arrays]:
    """Inputs in the published layout, and our outputs in it."""
    size = tokenizer.config.image_size
    images = jr.uniform(jr.key(0), (2, size, size, 3))
    features = jax.vmap(lambda image: tokenizer.features(image)[0])(images)
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = tokenizer.normalize(jax.vmap(tokenizer.decode)(latents))
    inputs = {"pixels": jnp.moveaxis(tokenizer.normalize(images), -1, 1)}
    outputs = {
        "cls": features.cls,
        "patches": features.patches,
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(decoded, -1, 1),
    }
    if tokenizer.config.text is not None:
        text = tokenizer.config.text
        ids = jr.randint(jr.key(1), (3, text.context), 0, text.vocabulary)
        inputs["text"] = ids
        outputs["image embedding"] = jax.vmap(tokenizer.embed_image)(images)
        outputs["text embedding"] = jax.vmap(tokenizer.embed_text)(ids)
    return inputs, outputs
