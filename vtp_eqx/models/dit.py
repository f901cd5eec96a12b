"""LightningDiT: the diffusion transformer that generates in a tokenizer's latents.

It predicts the velocity of `vtp_eqx.flow` from a noisy latent, a time and a class, or
a caption in place of the class.
Latents come in normalized per channel. Yao et al. 2025,
https://arxiv.org/abs/2501.01423; the block is DiT's "adaLN-zero" (Peebles & Xie 2023,
https://arxiv.org/abs/2212.09748).
"""

from collections.abc import Callable
import functools
import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray
import numpy as np

from vtp_eqx.config import DiTConfig, require
from vtp_eqx.models.text import TextFeatures
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
# What a latent is generated for, and the same for a batch: a row each.
Condition = Int[Array, ""] | TextFeatures
Conditions = Int[Array, " batch"] | Int[np.ndarray, " batch"] | TextFeatures


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


class CaptionTokens(eqx.Module):
    """Captions as tokens of a transformer, which its own layers attend to.

    Where a text has ended stand learned tokens, and they alone where there is no text.
    """

    project: Linear
    null: Float[Array, "context width"]

    def __init__(self, config: DiTConfig, *, key: PRNGKeyArray):
        project_key, null_key = jr.split(key)
        self.project = Linear(config.text_width, config.width, key=project_key)
        shape = (config.text_context, config.width)
        self.null = 0.02 * jr.normal(null_key, shape, jnp.float32)

    def __call__(self, text: TextFeatures) -> Float[Array, "context width"]:
        expected = (len(self.null), self.project.weight.shape[1])
        require(
            text.tokens.shape == expected,
            f"The model was made for text features of shape {expected}; got "
            f"{text.tokens.shape}: use the tokenizer it was trained with.",
        )
        is_word = jnp.arange(len(self.null)) < text.length
        return jnp.where(
            is_word[:, None], self.project(jnp.asarray(text.tokens)), self.null
        )

    def summary(self, text: TextFeatures) -> Float[Array, " width"]:
        """The token at the end of the text, of which contrast makes an embedding."""
        return self(text)[jnp.maximum(text.length, 1) - 1]


class DiT(eqx.Module):
    """The velocity of one latent, given the time and what it is generated for.

    That is a class (published), or a caption where `config.condition` is "text": tokens
    of the caption stand before those of the latent, and the last of them is added to
    the time where a class is. So the blocks are those of a model of classes.
    """

    to_tokens: Linear
    time_in: Linear
    time_out: Linear
    labels: Float[Array, "classes width"] | None
    captions: CaptionTokens | None
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
        width = config.width
        keys = jr.split(key, 6)
        numbers = config.patch_size**2 * config.latent_width
        self.to_tokens = _xavier(Linear(numbers, width, key=keys[0]), key=keys[1])
        self.time_in = Linear(2 * TIME_WAVES, width, key=keys[2])
        self.time_out = Linear(width, width, key=keys[3])
        self.labels = self.captions = None
        if config.condition == "text":
            self.captions = CaptionTokens(config, key=keys[4])
        else:
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
        condition: Condition,
    ) -> Float[Array, "height width channels"]:
        """The velocity at `latents` and time `t` in [0, 1].

        `condition` is a label or a caption, as `config.condition` says. Labels count
        from 0; `config.num_classes` is the null class. A label beyond it gives NaN,
        because under `jit` it cannot be refused. The null caption has the length 0.
        """
        return self._run(latents, t, condition, summarizes=False)[0]

    def _run(
        self, latents: Array, t: Array, condition: Condition, *, summarizes: bool
    ) -> tuple[
        Float[Array, "height width channels"], Float[Array, "depth features"] | None
    ]:
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
        embedding = jax.nn.silu(self.embed(t, condition))
        prefix = 0
        if self.captions is not None and isinstance(condition, TextFeatures):
            prefix = config.text_context
            tokens = jnp.concatenate([self.captions(condition), tokens])
        if config.residual == "float32":
            # Branches answer in the type of their weights: added to float32, they are.
            tokens = tokens.astype(jnp.float32)
        rotate = None
        if config.rope:
            head_width = config.width // config.num_heads
            rotate = integer_table(grid, grid, head_width, prefix=prefix)

        def apply(block, tokens, _):
            tokens = block(tokens, embedding, rotate=rotate)
            if not summarizes:
                return tokens, None
            return tokens, jnp.mean(tokens[prefix:].astype(jnp.float32), axis=0)

        tokens, summaries = through_depth(
            self.blocks, tokens, apply, remat=config.remat
        )
        tokens = tokens[prefix:] if prefix else tokens
        shift, scale = jnp.split(self.modulation(embedding), 2)
        velocity = self.to_velocity(self.norm(tokens) * (1 + scale) + shift)
        return unpatchify(velocity, (grid, grid), config.patch_size), summaries

    def batch(
        self,
        latents: Float[Array, "batch height width channels"],
        t: Float[Array, " batch"],
        conditions: Conditions,
    ) -> Float[Array, "batch height width channels"]:
        """The velocities of a batch."""
        return jax.vmap(self)(latents, t, jax.tree.map(jnp.asarray, conditions))

    def summarized_batch(
        self,
        latents: Float[Array, "batch height width channels"],
        t: Float[Array, " batch"],
        conditions: Conditions,
    ) -> tuple[
        Float[Array, "batch height width channels"],
        Float[Array, "batch depth features"],
    ]:
        """Velocities of a batch, and the mean token of a latent after each block."""
        run = functools.partial(self._run, summarizes=True)
        given = jax.tree.map(jnp.asarray, conditions)
        velocity, summaries = jax.vmap(run)(latents, t, given)
        assert summaries is not None
        return velocity, summaries

    def embed(
        self, t: Float[Array, ""], condition: Condition
    ) -> Float[Array, " width"]:
        """Time and condition as one vector: what every block is conditioned on."""
        check_condition_kind(condition, self.config)
        waves = time_waves(t).astype(self.time_in.weight.dtype)
        time = self.time_out(jax.nn.silu(self.time_in(waves)))
        if isinstance(condition, TextFeatures):
            assert self.captions is not None
            return time + self.captions.summary(condition)
        assert self.labels is not None
        return time + self.labels.at[condition].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )


def check_condition_kind(condition: Condition | Conditions, config: DiTConfig) -> None:
    """A `ValueError` unless it is a caption or a class, whichever the model takes."""
    got = "text" if isinstance(condition, TextFeatures) else "label"
    require(
        got == config.condition,
        f"`condition` (a {got}) must be a {config.condition}, which the model was "
        "trained with: give that, or use another model.",
    )


def num_rows(conditions: Conditions) -> int:
    """The number of rows of a batch of conditions."""
    return jax.tree.leaves(conditions)[0].shape[0]


def without_condition(conditions: Conditions, config: DiTConfig) -> Conditions:
    """The null condition for each row: the null class, or captions of length 0."""
    if isinstance(conditions, TextFeatures):
        no_word = jnp.zeros_like(conditions.length)
        return TextFeatures(conditions.tokens, no_word)
    return jnp.full_like(conditions, config.num_classes)


def drop_conditions(
    conditions: Conditions, config: DiTConfig, *, key: PRNGKeyArray
) -> Conditions:
    """`conditions`, of which a share `config.label_drop_rate` becomes the null one.

    So one model learns the conditional and the unconditional velocity, as guidance
    needs (Ho & Salimans 2022).
    """
    dropped = jr.bernoulli(key, config.label_drop_rate, (num_rows(conditions),))

    def chosen(none, given):
        return jnp.where(dropped.reshape(-1, *[1] * (given.ndim - 1)), none, given)

    return jax.tree.map(chosen, without_condition(conditions, config), conditions)


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
