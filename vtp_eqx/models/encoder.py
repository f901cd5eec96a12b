"""The vision transformer: normalized pixels to a class token and patches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vtp_eqx.config import Precision, Readout, require, TransformerConfig
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm
from vtp_eqx.nn.patches import patch_grid, patchify
from vtp_eqx.nn.rope import axial_table, RotaryTable
from vtp_eqx.nn.transformer import Transformer


class Features(eqx.Module):
    """The features of an image after the encoder's final norm.

    `cls` is the class token; `patches` run row by row. `fused` are those of several
    last blocks as one, where the bottleneck reads these and not the last block's alone.
    """

    cls: Float[Array, "*batch width"]
    patches: Float[Array, "*batch num_patches width"]
    fused: "Features | None" = None

    @property
    def readout(self) -> "Features":
        """What the bottleneck reads."""
        return self if self.fused is None else self.fused

    @classmethod
    def of_tokens(cls, tokens: Float[Array, "*batch seq width"]) -> "Features":
        """The features of a sequence whose first token is the class token."""
        return cls(tokens[..., 0, :], tokens[..., 1:, :])


class Encoder(eqx.Module):
    """A vision transformer with a class token and rotary positions.

    Takes pixels that are already normalized, of any size that the patch divides. Where
    a patch is hidden, a learned token stands in for its whole embedding, so that
    nothing of its pixels can be read.

    Siméoni et al. 2025 (DINOv3), https://arxiv.org/abs/2508.10104.
    """

    patch_embed: Linear
    cls_token: Float[Array, " width"]
    mask_token: Float[Array, " width"]
    stack: Transformer
    norm: RMSNorm | LayerNorm
    patch_size: int = eqx.field(static=True)
    rope: Precision = eqx.field(static=True)
    readout_layers: int = eqx.field(static=True)
    readout: Readout = eqx.field(static=True)

    def __init__(
        self,
        config: TransformerConfig,
        patch_size: int,
        rope: Precision,
        *,
        readout_layers: int = 1,
        readout: Readout = "mean",
        key: PRNGKeyArray,
    ):
        """`readout_layers`: so many last blocks are in `Features.fused`; 1: none is."""
        embed_key, cls_key, stack_key = jr.split(key, 3)
        self.patch_embed = _patch_embed(patch_size, config.width, embed_key)
        self.cls_token = 0.02 * jr.normal(cls_key, (config.width,), jnp.float32)
        self.mask_token = jnp.zeros(config.width, jnp.float32)
        self.stack = vision_stack(config, key=stack_key)
        self.norm = make_norm(config.norm, config.width)
        self.patch_size = patch_size
        self.rope = rope
        self.readout_layers = readout_layers
        self.readout = readout

    def __call__(
        self,
        pixels: Float[Array, "height width 3"],
        *,
        mask: Bool[Array, " num_patches"] | None = None,
    ) -> Features:
        """The features of one image; `mask` is `True` where a patch is hidden."""
        tokens, rotate = self._embed(pixels, mask), self._rotate(pixels)
        if self.readout_layers == 1:
            return Features.of_tokens(self.norm(self.stack(tokens, rotate=rotate)))
        traced = self.stack.trace(tokens, rotate=rotate)
        return self._fused(traced)

    def batch(
        self,
        pixels: Float[Array, "batch height width 3"],
        *,
        mask: Bool[Array, "batch num_patches"] | None = None,
        drop_rate: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Features:
        """The features of a batch, with stochastic depth on random subsets of it.

        Subsets are a matter of the batch, hence this method: without a key, or at rate
        0, it equals `jax.vmap` of a call.
        """
        run = self.stack.batch if self.readout_layers == 1 else self.stack.trace_batch
        tokens = run(
            jax.vmap(self._embed)(pixels, mask),
            rotate=self._rotate(pixels[0]),
            drop_rate=drop_rate,
            key=key,
        )
        if self.readout_layers == 1:
            return Features.of_tokens(self.norm(tokens))
        return self._fused(tokens)

    def intermediate(
        self, pixels: Float[Array, "height width 3"], last: int
    ) -> list[Features]:
        """The features after each of the `last` blocks, first to last, normed."""
        depth = self.stack.depth
        require(
            1 <= last <= depth,
            f"An encoder of {depth} blocks has 1 to {depth} last ones; got {last}: ask "
            "for fewer.",
        )
        traced = self.stack.trace(
            self._embed(pixels, None), rotate=self._rotate(pixels)
        )
        return [Features.of_tokens(self.norm(tokens)) for tokens in traced[-last:]]

    def _fused(self, traced: Float[Array, "depth *batch seq width"]) -> Features:
        """Features of the last block, and of the last blocks as one: their mean, or the
        first and the last beside one another."""
        layers = self.norm(traced[-self.readout_layers :])
        if self.readout == "mean":
            fused = jnp.mean(layers, axis=0)
        else:
            fused = jnp.concatenate([layers[0], layers[-1]], axis=-1)
        last = Features.of_tokens(layers[-1])
        return Features(last.cls, last.patches, Features.of_tokens(fused))

    def _embed(
        self,
        pixels: Float[Array, "height width 3"],
        mask: Bool[Array, " num_patches"] | None,
    ) -> Float[Array, "seq features"]:
        patches = self.patch_embed(patchify(pixels, self.patch_size))
        if mask is not None:
            patches = jnp.where(mask[:, None], self.mask_token, patches)
        return jnp.concatenate([self.cls_token[None], patches])

    def _rotate(self, pixels: Float[Array, "height width 3"]) -> RotaryTable:
        height, width, _ = pixels.shape
        rows, columns = patch_grid(height, width, self.patch_size)
        num_heads = self.stack.blocks.attention.num_heads
        head_width = self.cls_token.shape[0] // num_heads
        return axial_table(rows, columns, head_width, prefix=1, precision=self.rope)


def vision_stack(config: TransformerConfig, *, key: PRNGKeyArray) -> Transformer:
    """The blocks that a config of an encoder or pixel decoder describes."""
    return Transformer(
        config.width,
        config.depth,
        config.num_heads,
        init=config.init,
        remat=config.remat,
        residual=config.residual,
        norm=config.norm,
        feed_forward=config.feed_forward,
        mlp_ratio=config.mlp_ratio,
        qk_norm=config.qk_norm,
        layer_scale=config.layer_scale,
        attention=config.attention,
        key=key,
    )


def _patch_embed(patch_size: int, width: int, key: PRNGKeyArray) -> Linear:
    """Weight and bias from U(-k, k), `k = fan_in ** -0.5`: a convolution's start."""
    linear_key, weight_key, bias_key = jr.split(key, 3)
    linear = Linear(3 * patch_size**2, width, key=linear_key)
    limit = (3 * patch_size**2) ** -0.5

    def uniform(key, shape):
        return jr.uniform(key, shape, jnp.float32, -limit, limit)

    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        linear,
        (uniform(weight_key, linear.weight.shape), uniform(bias_key, (width,))),
    )
