"""Discriminators: networks that learn to know decoded images from real ones.

Both take a batch at once, because their norms may look at all of it, and return logits:
above 0 they take what they see for real. `axis_name` is the mesh axis that the batch is
split over, if it is.
"""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import DiscriminatorConfig, DiscriminatorNorm, require
from vtp_eqx.nn.batch_norm import BatchNorm, GroupNorm
from vtp_eqx.nn.convolution import Convolution


SLOPE = 0.2  # published: of a leaky relu below 0
STD = 0.02  # published: of the weights at first
KERNEL, PADDING = 4, 1  # published


class PatchLayer(eqx.Module):
    """A convolution, a norm except in the first layer, and a leaky relu."""

    convolution: Convolution
    norm: BatchNorm | GroupNorm | None

    def __call__(
        self, x: Float[Array, "batch height width in"], axis_name: str | None
    ) -> Float[Array, "batch down across out"]:
        x = jax.vmap(self.convolution)(x)
        if self.norm is not None:
            x = self.norm(x, axis_name)
        return jax.nn.leaky_relu(x, SLOPE)


class PatchDiscriminator(eqx.Module):
    """PatchGAN: a logit for each of many overlapping squares of an image.

    Isola et al. 2017, https://arxiv.org/abs/1611.07004, as VQGAN has it: convolutions
    of 4 x 4, `num_layers` of them with stride 2, then two of stride 1.
    """

    layers: list[PatchLayer]
    to_logits: Convolution

    def __init__(self, config: DiscriminatorConfig, *, key: PRNGKeyArray):
        keys = iter(jr.split(key, 2 * (config.num_layers + 2)))
        # Published: no more than eight times the first width.
        widths = [config.width * min(2**n, 8) for n in range(config.num_layers + 1)]
        strides = [2] * config.num_layers + [1]
        self.layers, before = [], 3
        for number, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            has_norm = number > 0
            # A batch's mean takes a bias away again.
            use_bias = not has_norm or config.norm == "group"
            convolution = _convolution(before, width, stride, use_bias, key=next(keys))
            norm = _norm(config.norm, width, key=next(keys)) if has_norm else None
            self.layers.append(PatchLayer(convolution, norm))
            before = width
        self.to_logits = _convolution(before, 1, 1, True, key=next(keys))

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        *,
        axis_name: str | None = None,
    ) -> Float[Array, "batch rows columns"]:
        """The logits of images with values in [-1, 1]."""
        least = 2 ** (len(self.layers) - 1) * 3
        require(
            min(images.shape[1:3]) >= least,
            f"A PatchGAN of {len(self.layers) - 1} layers takes images with sides of "
            f"{least} or more; got {images.shape[1]} x {images.shape[2]}: lower "
            "`num_layers`.",
        )
        x = images.astype(self.to_logits.weight.dtype)
        for layer in self.layers:
            x = layer(x, axis_name)
        return jax.vmap(self.to_logits)(x)[..., 0].astype(jnp.float32)


class SpectralConvolution(eqx.Module):
    """A convolution along a ring of tokens, divided by the norm of its matrix.

    That spectral norm is estimated from `direction`, which `updated` brings nearer to
    the matrix' first left singular vector, a step of the power iteration at a time.
    Miyato et al. 2018, https://arxiv.org/abs/1802.05957.
    """

    weight: Float[Array, "size in out"]
    bias: Float[Array, " out"]
    direction: Float[Array, " out"]

    @classmethod
    def drawn(
        cls, in_width: int, out_width: int, size: int, *, key: PRNGKeyArray
    ) -> "SpectralConvolution":
        """Weights are drawn, biases are 0."""
        weight_key, direction_key = jr.split(key)
        std = (size * in_width) ** -0.5
        weight = std * jr.normal(weight_key, (size, in_width, out_width), jnp.float32)
        direction = jr.normal(direction_key, (out_width,), jnp.float32)
        return cls(weight, jnp.zeros(out_width, jnp.float32), _unit(direction))

    def __call__(
        self, tokens: Float[Array, "num_patches in"]
    ) -> Float[Array, "num_patches out"]:
        size, dtype = self.weight.shape[0], self.weight.dtype
        # The direction is no weight: it follows without a gradient.
        left = lax.stop_gradient(self.direction.astype(jnp.float32))
        right = lax.stop_gradient(_unit(self._matrix() @ left))
        weight = (self.weight / (right @ self._matrix() @ left)).astype(dtype)
        ring = jnp.pad(tokens.astype(dtype), ((size // 2, size // 2), (0, 0)), "wrap")
        spread = lax.conv_general_dilated(
            ring[None], weight, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return spread[0] + self.bias.astype(dtype)

    def updated(self) -> "SpectralConvolution":
        """The same after one step of the power iteration."""
        matrix = self._matrix()
        direction = _unit(_unit(matrix @ self.direction) @ matrix)
        return eqx.tree_at(lambda layer: layer.direction, self, direction)

    def _matrix(self) -> Float[Array, "from out"]:
        return self.weight.astype(jnp.float32).reshape(-1, self.weight.shape[-1])


class FeatureHead(eqx.Module):
    """A logit for each patch, from its features and those of patches beside it."""

    mix: SpectralConvolution
    mix_norm: BatchNorm | GroupNorm
    spread: SpectralConvolution
    spread_norm: BatchNorm | GroupNorm
    to_logits: SpectralConvolution

    def __init__(
        self, width: int, kernel: int, norm: DiscriminatorNorm, *, key: PRNGKeyArray
    ):
        keys = jr.split(key, 5)
        self.mix = SpectralConvolution.drawn(width, width, 1, key=keys[0])
        self.mix_norm = _norm(norm, width, key=keys[1])
        self.spread = SpectralConvolution.drawn(width, width, kernel, key=keys[2])
        self.spread_norm = _norm(norm, width, key=keys[3])
        self.to_logits = SpectralConvolution.drawn(width, 1, 1, key=keys[4])

    def __call__(
        self, tokens: Float[Array, "batch num_patches width"], axis_name: str | None
    ) -> Float[Array, "batch num_patches"]:
        mixed = self.mix_norm(jax.vmap(self.mix)(tokens), axis_name)
        mixed = jax.nn.leaky_relu(mixed, SLOPE)
        spread = self.spread_norm(jax.vmap(self.spread)(mixed), axis_name)
        added = (mixed + jax.nn.leaky_relu(spread, SLOPE)) * 0.5**0.5
        return jax.vmap(self.to_logits)(added)[..., 0].astype(jnp.float32)


class FeatureDiscriminator(eqx.Module):
    """Heads on features of a frozen network, one for each of its depths.

    Sauer et al. 2023 (StyleGAN-T), https://arxiv.org/abs/2301.09515, as RAE has it on a
    DINO. Differs in that norms are over the whole batch, not over 8 images.
    """

    heads: FeatureHead  # arrays with a leading axis of levels

    def __init__(
        self, config: DiscriminatorConfig, width: int, levels: int, *, key: PRNGKeyArray
    ):
        make = lambda key: FeatureHead(width, config.kernel, config.norm, key=key)
        self.heads = eqx.filter_vmap(make)(jr.split(key, levels))

    def __call__(
        self,
        features: Float[Array, "batch levels num_patches width"],
        *,
        axis_name: str | None = None,
    ) -> Float[Array, "batch levels num_patches"]:
        """The logits of images whose features these are."""
        return jax.vmap(lambda head, tokens: head(tokens, axis_name), (0, 1), 1)(
            self.heads, features
        )

    def updated(self) -> "FeatureDiscriminator":
        """The same with spectral norms that are estimated a step further."""
        is_layer = lambda part: isinstance(part, SpectralConvolution)
        further = lambda part: part.updated() if is_layer(part) else part
        update = jax.vmap(lambda heads: jax.tree.map(further, heads, is_leaf=is_layer))
        return eqx.tree_at(lambda all: all.heads, self, update(self.heads))


Discriminator = PatchDiscriminator | FeatureDiscriminator


def _convolution(
    in_width: int, out_width: int, stride: int, use_bias: bool, *, key: PRNGKeyArray
) -> Convolution:
    shape = (KERNEL, KERNEL, in_width, out_width)
    bias = jnp.zeros(out_width, jnp.float32) if use_bias else None
    return Convolution(STD * jr.normal(key, shape, jnp.float32), bias, stride, PADDING)


def _norm(
    kind: DiscriminatorNorm, width: int, *, key: PRNGKeyArray
) -> BatchNorm | GroupNorm:
    # Published: scales near 1 and not all equal.
    weight = 1 + STD * jr.normal(key, (width,), jnp.float32)
    make = BatchNorm if kind == "batch" else GroupNorm
    return make(weight, jnp.zeros(width, jnp.float32))


def _unit(vector: Float[Array, " length"]) -> Float[Array, " length"]:
    return vector * lax.rsqrt(jnp.maximum(jnp.sum(vector**2), 1e-24))
