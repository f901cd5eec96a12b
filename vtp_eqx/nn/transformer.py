"""A stack of pre-norm blocks: one block with a layer axis, scanned, with remat."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from vtp_eqx.config import Attention, FeedForward, Init, Norm, Remat, Residual
from vtp_eqx.nn.attention import MIXED, SelfAttention
from vtp_eqx.nn.feed_forward import gelu, MLP, SwiGLU, swiglu_width
from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm


Rotate = Callable[[Array], Array]


class Block(eqx.Module):
    """`x += attention(norm(x))`, then `x += feed_forward(norm(x))`.

    The two branches are methods of their own, because stochastic depth runs each on
    its own subset of a batch.
    """

    attention_norm: RMSNorm | LayerNorm
    attention: SelfAttention
    attention_scale: Float[Array, " width"] | None
    feed_forward_norm: RMSNorm | LayerNorm
    feed_forward: SwiGLU | MLP
    feed_forward_scale: Float[Array, " width"] | None

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        norm: Norm = "rmsnorm",
        norm_eps: float | None = None,
        feed_forward: FeedForward = "swiglu",
        mlp_ratio: float = 4.0,
        activation: Callable[[Array], Array] = gelu,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        attention: Attention = "plain",
        key: PRNGKeyArray,
    ):
        """`activation` is the MLP's; `norm_eps=None` takes the norm's own."""
        attention_key, feed_forward_key = jr.split(key)
        self.attention_norm = make_norm(norm, width, norm_eps)
        self.attention = SelfAttention(
            width, num_heads, qk_norm="rmsnorm" if qk_norm else None, kind=attention,
            key=attention_key,
        )  # fmt: skip
        self.feed_forward_norm = make_norm(norm, width, norm_eps)
        if feed_forward == "mlp":
            self.feed_forward = MLP(
                width, int(width * mlp_ratio), activation=activation,
                key=feed_forward_key,
            )  # fmt: skip
        else:
            hidden = swiglu_width(width, mlp_ratio, feed_forward)
            self.feed_forward = SwiGLU(width, hidden, key=feed_forward_key)

        def scale():
            if layer_scale is None:
                return None
            return jnp.full(width, layer_scale, jnp.float32)

        self.attention_scale, self.feed_forward_scale = scale(), scale()

    def __call__(
        self,
        tokens: Float[Array, "seq width"],
        *,
        rotate: Rotate | None = None,
        mask: Bool[Array, "seq seq"] | None = None,
    ) -> Float[Array, "seq width"]:
        tokens = tokens + self.attend(tokens, rotate=rotate, mask=mask)
        return tokens + self.feed(tokens)

    def attend(
        self,
        tokens: Float[Array, "seq width"],
        *,
        rotate: Rotate | None = None,
        mask: Bool[Array, "seq seq"] | None = None,
    ) -> Float[Array, "seq width"]:
        """What the attention branch adds."""
        added = self.attention(self.attention_norm(tokens), rotate=rotate, mask=mask)
        return added if self.attention_scale is None else added * self.attention_scale

    def feed(self, tokens: Float[Array, "seq width"]) -> Float[Array, "seq width"]:
        """What the feed-forward branch adds."""
        added = self.feed_forward(self.feed_forward_norm(tokens))
        scale = self.feed_forward_scale
        return added if scale is None else added * scale


class Transformer(eqx.Module):
    """`depth` blocks whose arrays carry a leading layer axis."""

    blocks: Block
    depth: int = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    residual: Residual = eqx.field(static=True)

    def __init__(
        self, width: int, depth: int, num_heads: int, *, init: Init = "vtp",
        remat: Remat = "none", residual: Residual = "as computed", key: PRNGKeyArray,
        **block: Any,
    ):  # fmt: skip
        """`block` is passed on to `Block`."""
        block_key, weight_key = jr.split(key)
        blocks = stacked(
            lambda key: Block(width, num_heads, key=key, **block), depth, key=block_key
        )
        if init == "clip":
            blocks = _init_as_clip(blocks, width, depth, key=weight_key)
        self.blocks = blocks
        self.depth = depth
        self.remat = remat
        self.residual = residual

    def __call__(
        self,
        tokens: Float[Array, "seq width"],
        *,
        rotate: Rotate | None = None,
        mask: Bool[Array, "seq seq"] | None = None,
    ) -> Float[Array, "seq width"]:
        apply = lambda block, tokens, _: block(tokens, rotate=rotate, mask=mask)
        return self._through(tokens, apply)[0]

    def trace(
        self, tokens: Float[Array, "seq width"], *, rotate: Rotate | None = None
    ) -> Float[Array, "depth seq width"]:
        """The tokens after every block."""
        apply = lambda block, tokens, _: block(tokens, rotate=rotate)
        return self._through(tokens, apply, traces=True)[1]

    def batch(
        self,
        tokens: Float[Array, "batch seq width"],
        *,
        rotate: Rotate | None = None,
        drop_rate: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch seq width"]:
        """A batch of sequences, with stochastic depth on subsets of it.

        Every residual branch runs on a random `1 - drop_rate` of the batch and is
        scaled up to keep its expectation (DINOv2). Inside `shard_map` the
        subsets are drawn from the local rows. `key=None` drops nothing.
        """
        return self._through(tokens, *self._on_subsets(rotate, drop_rate, key))[0]

    def trace_batch(
        self,
        tokens: Float[Array, "batch seq width"],
        *,
        rotate: Rotate | None = None,
        drop_rate: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "depth batch seq width"]:
        """The tokens of a batch after every block; otherwise as `batch`."""
        branches = self._on_subsets(rotate, drop_rate, key)
        return self._through(tokens, *branches, traces=True)[1]

    def _on_subsets(
        self, rotate: Rotate | None, drop_rate: float, key: PRNGKeyArray | None
    ) -> tuple[Callable[..., Array], Array | None]:
        """A block on a batch, `apply(block, tokens, key)`, and the keys of all."""

        def apply(block, tokens, key):
            keys = (None, None) if key is None else jr.split(key)
            attend = jax.vmap(lambda one: block.attend(one, rotate=rotate))
            tokens = _add_on_subset(attend, tokens, drop_rate, keys[0])
            return _add_on_subset(jax.vmap(block.feed), tokens, drop_rate, keys[1])

        keys = None if key is None or drop_rate == 0 else jr.split(key, self.depth)
        return apply, keys

    def _through(
        self, tokens: Array, apply: Callable[..., Array], keys: Array | None = None,
        *, traces: bool = False,
    ) -> tuple[Array, Any]:  # fmt: skip
        """The tokens after all blocks, and where asked for after each."""

        def layer(block, tokens, key):
            tokens = apply(block, tokens, key)
            return tokens, tokens if traces else None

        # Branches answer in the type of their weights: added to float32, they are too.
        if self.residual == "float32":
            tokens = tokens.astype(jnp.float32)
        return through_depth(self.blocks, tokens, layer, keys, remat=self.remat)


def stacked(make: Callable[[PRNGKeyArray], PyTree], depth: int, *, key: PRNGKeyArray):
    """`depth` modules as one, every array with a leading layer axis."""
    return eqx.filter_vmap(make)(jr.split(key, depth))


def _init_as_clip(blocks: Block, width: int, depth: int, *, key: PRNGKeyArray) -> Block:
    """`blocks` whose weights suit their width, and whose branches shrink with depth.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5.
    """

    def weights(block):
        attention, feed = block.attention, block.feed_forward
        into = (feed.gate, feed.up) if isinstance(feed, SwiGLU) else (feed.up,)
        layers = (attention.to_qkv, attention.to_out, feed.out, *into)
        return tuple(layer.weight for layer in layers)

    found = weights(blocks)
    shrunk, wide = (2 * width * depth) ** -0.5, (2 * width) ** -0.5
    stds = [width**-0.5, shrunk, shrunk, *[wide] * (len(found) - 3)]
    drawn = [
        std * jr.normal(key, weight.shape, jnp.float32)
        for std, weight, key in zip(stds, found, jr.split(key, len(found)), strict=True)
    ]
    return eqx.tree_at(weights, blocks, drawn)


def through_depth(
    blocks: PyTree,
    carry: PyTree,
    apply: Callable[[Any, Any, Any], tuple[Any, Any]],
    per_layer: PyTree = None,
    *,
    remat: Remat = "none",
) -> tuple[Any, Any]:
    """Scans `carry, out = apply(block, carry, layer)` over stacked `blocks`.

    `per_layer` has a leading layer axis (keys, say) or is `None`. `remat` says what the
    backward pass keeps of a block: all but what its layers compute anew by themselves
    (`recomputed`), which is "none"; its matrix products and the values that attention
    mixed ("dots"); or its input alone ("full").
    """
    arrays, static = eqx.partition(blocks, eqx.is_array)

    def body(carry, layer):
        arrays, extra = layer
        return apply(eqx.combine(arrays, static), carry, extra)

    if remat != "none":
        policies = jax.checkpoint_policies
        products = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable,
            policies.save_only_these_names(MIXED),
        )
        keep = products if remat == "dots" else None
        # A scan already keeps XLA from merging the two passes.
        body = jax.checkpoint(body, policy=keep, prevent_cse=False)
    return lax.scan(body, carry, (arrays, per_layer))


def _add_on_subset(
    branch: Callable[[Array], Array],
    tokens: Float[Array, "batch seq width"],
    drop_rate: float,
    key: PRNGKeyArray | None,
) -> Float[Array, "batch seq width"]:
    if key is None or drop_rate == 0:
        return tokens + branch(tokens)
    batch = tokens.shape[0]
    kept = max(int(batch * (1 - drop_rate)), 1)
    rows = jr.permutation(key, batch)[:kept]
    return tokens.at[rows].add(batch / kept * branch(tokens[rows]))
