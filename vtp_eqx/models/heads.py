"""Heads on features: logits over learned directions, and narrow unit vectors."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import PrototypeConfig
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import unit_norm


class PrototypeHead(eqx.Module):
    """Scores features against prototypes, on the unit sphere.

    An MLP with exact GELU narrows the features, its output is put on the unit sphere,
    and a logit is `scale[k]` times its cosine with prototype `k`. Only the direction of
    a row of `prototypes` matters. Temperatures belong to the losses.

    Caron et al. 2021, https://arxiv.org/abs/2104.14294, appendix C; as in DINOv2, the
    scales are trained.
    """

    layers: tuple[Linear, ...]
    prototypes: Float[Array, "prototypes bottleneck"]
    scale: Float[Array, " prototypes"]

    def __init__(self, in_width: int, config: PrototypeConfig, *, key: PRNGKeyArray):
        *layer_keys, prototype_key = jr.split(key, config.num_layers + 1)
        hidden = [config.hidden_width] * (config.num_layers - 1)
        widths = [in_width, *hidden, config.bottleneck_width]
        self.layers = tuple(
            Linear(narrow, wide, std=config.init_std, key=layer_key)
            for narrow, wide, layer_key in zip(
                widths[:-1], widths[1:], layer_keys, strict=True
            )
        )
        # As DINOv2 starts them; the length of a row cancels, it only sets how fast
        # the direction turns under a step of given size.
        limit = config.bottleneck_width**-0.5
        self.prototypes = jr.uniform(
            prototype_key,
            (config.num_prototypes, config.bottleneck_width),
            jnp.float32,
            minval=-limit,
            maxval=limit,
        )
        self.scale = jnp.ones(config.num_prototypes, jnp.float32)

    def __call__(
        self, features: Float[Array, "*axes width"]
    ) -> Float[Array, "*axes prototypes"]:
        """The logit of every prototype, before any temperature."""
        return self.score()(self.bottleneck(features))

    def score(self) -> Callable[[Array], Array]:
        """The function from a bottleneck to the logit of every prototype."""
        directions = unit_norm(self.prototypes).T

        def logits(
            bottleneck: Float[Array, "*axes bottleneck"],
        ) -> Float[Array, "*axes prototypes"]:
            # In float32 even where the network is not: a softmax over 65536 prototypes
            # needs more than the 8 bits of bfloat16.
            cosine = jnp.matmul(
                bottleneck, directions, preferred_element_type=jnp.float32
            )
            return cosine * self.scale

        return logits

    def bottleneck(
        self, features: Float[Array, "*axes width"]
    ) -> Float[Array, "*axes bottleneck"]:
        """The narrowed features, of unit norm: what prototypes are compared with."""
        for layer in self.layers[:-1]:
            features = jax.nn.gelu(layer(features), approximate=False)
        return unit_norm(self.layers[-1](features))


class ProjectionHead(eqx.Module):
    """Narrows features to unit vectors, by a layer as wide as they are and a map."""

    hidden: Linear
    out: Linear

    def __init__(self, in_width: int, out_width: int, *, key: PRNGKeyArray):
        hidden_key, out_key = jr.split(key)
        # Ours: keeps the size of what comes in, whatever its width.
        std = in_width**-0.5
        self.hidden = Linear(in_width, in_width, std=std, key=hidden_key)
        self.out = Linear(in_width, out_width, std=std, key=out_key)

    def __call__(
        self, features: Float[Array, "*axes width"]
    ) -> Float[Array, "*axes narrow"]:
        """The narrow features, of unit norm and in float32."""
        hidden = jax.nn.gelu(self.hidden(features), approximate=False)
        return unit_norm(self.out(hidden).astype(jnp.float32))
