"""LightningDiT: the diffusion transformer that generates in a tokenizer's latents.

It predicts the velocity of `vtp_eqx.flow` from a noisy latent, a time and a class.
Latents come in normalized per channel. Yao et al. 2025,
https://arxiv.org/abs/2501.01423; the block is DiT's "adaLN-zero" (Peebles & Xie 2023,
https://arxiv.org/abs/2212.09748).
"""

from collections.abc import Callable
import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.nn.attention import SelfAttention
from vtp_eqx.nn.feed_forward import MLP, SwiGLU
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm, RMSNorm
from vtp_eqx.nn.patches import patchify, unpatchify
from vtp_eqx.nn.recompute import recomputed
from vtp_eqx.nn.rope import integer_table
from vtp_eqx.nn.transformer import stacked, through_depth


NORM_EPS = 1e-6  # code
# Code: of the norms of queries and keys, each class's own default.
QUERY_EPS = {"rmsnorm": 1e-6, "layernorm": 1e-5}
TIME_WAVES = 128  # code

Layer = TypeVar("Layer", bound=eqx.Module)


class DiTBlock(eqx.Module):
    """A transformer block whose norms and branches are set by a condition.

    Each branch adds `gate * branch(norm(tokens) * (1 + scale) + shift)`. The gates
    start at zero, so a new block is the identity.
    """

    modulation: Linear
    attention_norm: RMSNorm | LayerNorm
    attention: SelfAttention
    feed_forward_norm: RMSNorm | LayerNorm
    feed_forward: SwiGLU | MLP
    has_shift: bool = eqx.field(static=True)

    def __init__(self, config: DiTConfig, *, key: PRNGKeyArray):
        keys = jr.split(key, 3)
        width = config.width
        kind = "rmsnorm" if config.rmsnorm else "layernorm"
        self.modulation = _zero_linear(width, (6 if config.shift else 4) * width)
        self.attention_norm = _norm(config)
        attention = SelfAttention(
            width,
            config.num_heads,
            qk_norm=kind if config.qk_norm else None,
            qk_eps=QUERY_EPS[kind],
            kind=config.attention,
            float32_logits=config.float32_logits,
            key=keys[0],
        )
        self.attention = _xavier(attention, key=keys[1])
        self.feed_forward_norm = _norm(config)
        self.feed_forward = _feed_forward(config, key=keys[2])
        self.has_shift = config.shift

    def __call__(
        self,
        tokens: Float[Array, "seq width"],
        condition: Float[Array, " width"],
        *,
        rotate: Callable[[Array], Array] | None = None,
    ) -> Float[Array, "seq width"]:
        """`condition` is already activated; `rotate` is a `RotaryTable`."""
        parts = self.modulation(condition).reshape(-1, tokens.shape[-1])
        if self.has_shift:
            shift, scale, gate, *feed_parts = parts
            feed_shift, feed_scale, feed_gate = feed_parts
        else:
            scale, gate, feed_scale, feed_gate = parts
            shift = feed_shift = jnp.zeros_like(scale)

        read = _read(self.attention_norm, tokens, scale, shift)
        tokens = tokens + gate * self.attention(read, rotate=rotate)
        read = _read(self.feed_forward_norm, tokens, feed_scale, feed_shift)
        return tokens + feed_gate * self.feed_forward(read)


class DiT(eqx.Module):
    """The velocity of one latent, given the time and the class it is generated for."""

    to_tokens: Linear
    time_in: Linear
    time_out: Linear
    labels: Float[Array, "classes width"]
    blocks: DiTBlock
    norm: RMSNorm | LayerNorm
    modulation: Linear
    to_velocity: Linear
    config: DiTConfig = eqx.field(static=True)
    # What a published checkpoint has beyond this model; no number depends on it
    # (`vtp_eqx.interop.passthrough`).
    origin: str = eqx.field(static=True)

    def __init__(self, config: DiTConfig, *, origin: str = "", key: PRNGKeyArray):
        """The last layer starts at zero, so a new model's velocity is zero."""
        width, head_width = config.width, config.width // config.num_heads
        require(
            head_width % 4 == 0,
            "The head width must be a multiple of 4, so that positions have two axes "
            f"of pairs; got {head_width}: change `width` or `num_heads`.",
        )
        keys = jr.split(key, 6)
        numbers = config.patch_size**2 * config.latent_width
        self.to_tokens = _xavier(Linear(numbers, width, key=keys[0]), key=keys[1])
        self.time_in = Linear(2 * TIME_WAVES, width, key=keys[2])
        self.time_out = Linear(width, width, key=keys[3])
        # One class more than there are: the last is the null class, "any".
        shape = (config.num_classes + 1, width)
        self.labels = 0.02 * jr.normal(keys[4], shape, jnp.float32)
        self.blocks = stacked(
            lambda key: DiTBlock(config, key=key), config.depth, key=keys[5]
        )
        self.norm = _norm(config)
        self.modulation = _zero_linear(width, 2 * width)
        self.to_velocity = _zero_linear(width, numbers)
        self.config = config
        self.origin = origin

    def __call__(
        self,
        latents: Float[Array, "height width channels"],
        t: Float[Array, ""],
        label: Int[Array, ""],
    ) -> Float[Array, "height width channels"]:
        """The velocity at `latents` and time `t` in [0, 1].

        `label` counts from 0; `config.num_classes` is the null class. A label beyond
        it gives NaN, because under `jit` it cannot be refused.
        """
        config = self.config
        side = config.latent_size
        expected = (side, side, config.latent_width)
        require(
            latents.shape == expected,
            f"The model was made for latents of shape {expected}; got {latents.shape}: "
            "use the tokenizer and the image size it was trained with.",
        )
        grid = side // config.patch_size
        tokens = self.to_tokens(patchify(latents, config.patch_size))
        tokens = tokens + jnp.asarray(sincos_table(grid, config.width), tokens.dtype)
        condition = jax.nn.silu(self.embed(t, label))
        rotate = None
        if config.rope:
            rotate = integer_table(grid, grid, config.width // config.num_heads)

        def apply(block, tokens, _):
            return block(tokens, condition, rotate=rotate), None

        tokens, _ = through_depth(self.blocks, tokens, apply, remat=config.remat)
        shift, scale = jnp.split(self.modulation(condition), 2)
        velocity = self.to_velocity(self.norm(tokens) * (1 + scale) + shift)
        return unpatchify(velocity, (grid, grid), config.patch_size)

    def batch(
        self,
        latents: Float[Array, "batch height width channels"],
        t: Float[Array, " batch"],
        labels: Int[Array, " batch"],
    ) -> Float[Array, "batch height width channels"]:
        """The velocities of a batch."""
        return jax.vmap(self)(latents, t, labels)

    def embed(
        self, t: Float[Array, ""], label: Int[Array, ""]
    ) -> Float[Array, " width"]:
        """Time and class as one vector: what every block is conditioned on."""
        waves = time_waves(t).astype(self.labels.dtype)
        time = self.time_out(jax.nn.silu(self.time_in(waves)))
        return time + self.labels.at[label].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )


def drop_labels(
    labels: Int[Array, " batch"], config: DiTConfig, *, key: PRNGKeyArray
) -> Int[Array, " batch"]:
    """`labels`, each replaced by the null class at `config.label_drop_rate`.

    So one model learns the conditional and the unconditional velocity, as guidance
    needs (Ho & Salimans 2022).
    """
    dropped = jr.bernoulli(key, config.label_drop_rate, labels.shape)
    return jnp.where(dropped, jnp.asarray(config.num_classes, labels.dtype), labels)


def time_waves(t: Float[Array, ""]) -> Float[Array, " waves"]:
    """Cosines, then sines of `t` at frequencies from 1 down to 1/10000.

    `t` in [0, 1] is not stretched to the thousand steps the frequencies were made for
    (published code).
    """
    frequencies = np.exp(-math.log(10_000) * np.arange(TIME_WAVES) / TIME_WAVES)
    angles = t.astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def sincos_table(grid: int, width: int) -> Float[np.ndarray, "seq width"]:
    """The fixed position of every token of a square grid, row by row.

    The first half of the channels holds the column, the second half the row; each half
    is sines, then cosines, of frequencies from 1 down to almost 1/10000.
    """
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width / 4))
    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    column_angles = columns.reshape(-1, 1) * frequencies
    row_angles = rows.reshape(-1, 1) * frequencies
    waves = [f(a) for a in (column_angles, row_angles) for f in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


@recomputed
def _read(
    norm: RMSNorm | LayerNorm,
    tokens: Float[Array, "seq width"],
    scale: Float[Array, " width"],
    shift: Float[Array, " width"],
) -> Float[Array, "seq width"]:
    return norm(tokens) * (1 + scale) + shift


def _norm(config: DiTConfig) -> RMSNorm | LayerNorm:
    if config.rmsnorm:
        return RMSNorm(config.width, NORM_EPS)
    return LayerNorm(config.width, NORM_EPS, affine=False)


def _feed_forward(config: DiTConfig, *, key: PRNGKeyArray) -> SwiGLU | MLP:
    make_key, draw_key = jr.split(key)
    hidden = int(config.width * config.mlp_ratio)
    if config.swiglu:
        # Published: two thirds, not rounded up to a multiple of anything.
        layer = SwiGLU(config.width, int(2 / 3 * hidden), key=make_key)
    else:
        # Published: the tanh approximation, which is JAX's default.
        layer = MLP(config.width, hidden, activation=jax.nn.gelu, key=make_key)
    return _xavier(layer, key=draw_key)


def _xavier(layer: Layer, *, key: PRNGKeyArray) -> Layer:
    """`layer` with the weights of its linear maps drawn by Glorot's uniform rule."""
    is_linear = lambda part: isinstance(part, Linear)
    parts, structure = jax.tree.flatten(layer, is_leaf=is_linear)
    keys = jr.split(key, len(parts))

    def redraw(part, key):
        # Published SwiGLU has gate and up in one matrix, whose fan is what counts.
        is_half = isinstance(layer, SwiGLU) and part is not layer.out
        fan_out, fan_in = part.weight.shape
        limit = math.sqrt(6 / (fan_in + fan_out * (2 if is_half else 1)))
        weight = jr.uniform(key, part.weight.shape, jnp.float32, -limit, limit)
        return eqx.tree_at(lambda linear: linear.weight, part, weight)

    parts = [
        redraw(part, key) if is_linear(part) else part
        for part, key in zip(parts, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def _zero_linear(in_width: int, out_width: int) -> Linear:
    return Linear(in_width, out_width, std=0.0, key=jr.key(0))
