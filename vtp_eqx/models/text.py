"""The text tower: token ids to one feature per text."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import TextConfig
from vtp_eqx.nn.feed_forward import gelu, quick_gelu
from vtp_eqx.nn.norms import LayerNorm
from vtp_eqx.nn.transformer import Transformer


# Published code; the vision towers have 1e-6.
_NORM_EPS = 1e-5


class TextFeatures(eqx.Module):
    """The features of every token of a text, or of a batch of texts.

    `length` counts the tokens from the start to the end token; what stands after them
    means nothing. A length of 0 is no text: anything.
    """

    tokens: Float[Array | np.ndarray, "*batch context width"]
    length: Int[Array | np.ndarray, "*batch"]


class TextEncoder(eqx.Module):
    """A transformer over token ids, read at the end token.

    The end token has the largest id of a vocabulary, so the first largest id of a text
    is its end. Reading is causal as published: padding after the end changes nothing.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    """

    token_embedding: Float[Array, "vocabulary width"]
    positions: Float[Array, "context width"]
    stack: Transformer
    norm: LayerNorm
    projection: Float[Array, "width embed"]
    causal: bool = eqx.field(static=True)

    def __init__(self, config: TextConfig, *, key: PRNGKeyArray):
        token_key, position_key, stack_key, projection_key = jr.split(key, 4)
        width = config.width
        self.token_embedding = _normal(token_key, (config.vocabulary, width), 0.02)
        self.positions = _normal(position_key, (config.context, width), 0.01)
        self.stack = Transformer(
            width,
            config.depth,
            config.num_heads,
            init="clip",
            remat=config.remat,
            norm="layernorm",
            norm_eps=_NORM_EPS,
            feed_forward="mlp",
            mlp_ratio=config.mlp_ratio,
            activation=quick_gelu if config.quick_gelu else gelu,
            layer_scale=config.layer_scale,
            key=stack_key,
        )
        self.norm = LayerNorm(width, _NORM_EPS)
        self.projection = _normal(projection_key, (width, width), width**-0.5)
        self.causal = config.causal

    def __call__(self, ids: Int[Array, " context"]) -> Float[Array, " width"]:
        """The feature of one text at its end token, before the projection."""
        # The norm acts on each token alone, so only the one that is read needs it.
        return self.norm(self._tokens(ids)[jnp.argmax(ids)])

    def features(self, ids: Int[Array, " context"]) -> TextFeatures:
        """The features of all tokens of one text; ids of 0 alone are no text."""
        length = jnp.where(jnp.any(ids > 0), jnp.argmax(ids) + 1, 0)
        return TextFeatures(self.norm(self._tokens(ids)), length.astype(jnp.int32))

    def embed(self, ids: Int[Array, " context"]) -> Float[Array, " embed"]:
        """The projected feature of one text, not yet of unit norm."""
        return self(ids) @ self.projection

    def _tokens(self, ids: Int[Array, " context"]) -> Float[Array, "context width"]:
        tokens = self.token_embedding[ids] + self.positions
        mask = jnp.tri(len(tokens), dtype=bool) if self.causal else None
        return self.stack(tokens, mask=mask)


def _normal(key: PRNGKeyArray, shape: tuple[int, ...], std: float) -> Array:
    return std * jr.normal(key, shape, jnp.float32)
