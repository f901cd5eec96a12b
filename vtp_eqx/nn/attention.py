"""Multi-head self-attention."""

from collections.abc import Callable

import equinox as eqx
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, BFloat16, Bool, Float, PRNGKeyArray

from vtp_eqx.config import Attention, Norm
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.norms import LayerNorm, make_norm, RMSNorm
from vtp_eqx.nn.recompute import recomputed


MIXED = "mixed values"  # the name by which remat finds them


class SelfAttention(eqx.Module):
    """Multi-head self-attention over one sequence; batch with `jax.vmap`.

    Queries and keys may be normalized per head, which bounds the logits in bfloat16
    (Dehghani et al. 2023), and are then turned by their positions.
    """

    to_qkv: Linear
    to_out: Linear
    query_norm: RMSNorm | LayerNorm | None
    key_norm: RMSNorm | LayerNorm | None
    num_heads: int = eqx.field(static=True)
    kind: Attention = eqx.field(static=True)
    float32_logits: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qk_norm: Norm | None = None,
        qk_eps: float | None = None,
        kind: Attention = "plain",
        float32_logits: bool = False,
        key: PRNGKeyArray,
    ):
        """`kind="fused"` runs bfloat16 without a mask through `fused_attention`;
        with `float32_logits` queries and keys are float32 from their product on."""
        qkv_key, out_key = jr.split(key)
        self.to_qkv = Linear(width, 3 * width, key=qkv_key)
        self.to_out = Linear(width, width, key=out_key)
        head_width = width // num_heads
        self.query_norm = make_norm(qk_norm, head_width, qk_eps) if qk_norm else None
        self.key_norm = make_norm(qk_norm, head_width, qk_eps) if qk_norm else None
        self.num_heads = num_heads
        self.kind = kind
        self.float32_logits = float32_logits

    def __call__(
        self,
        tokens: Float[Array, "seq width"],
        *,
        rotate: Callable[[Array], Array] | None = None,
        mask: Bool[Array, "seq seq"] | None = None,
    ) -> Float[Array, "seq width"]:
        """`rotate` turns `[seq, num_heads, head]` by position (a `RotaryTable`);
        `mask[q, k]` is `True` where query `q` may read key `k`."""
        length, width = tokens.shape
        qkv = self.to_qkv(tokens).reshape(length, 3, self.num_heads, -1)
        queries, keys, values = (part[:, 0] for part in lax.split(qkv, (1, 1, 1), 1))
        if self.float32_logits:
            queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if rotate is not None:
            queries, keys = rotate(queries), rotate(keys)
        is_half = values.dtype == jnp.bfloat16
        if self.kind == "fused" and is_half and mask is None:
            mixed = fused_attention(queries, keys, values)
        else:
            mixed = recomputed(mix_values)(queries, keys, values, mask)
        mixed = checkpoint_name(mixed, MIXED)
        return self.to_out(mixed.reshape(length, width))


def mix_values(
    queries: Float[Array, "seq num_heads head"],
    keys: Float[Array, "seq num_heads head"],
    values: Float[Array, "seq num_heads head"],
    mask: Bool[Array, "seq seq"] | None,
) -> Float[Array, "seq num_heads head"]:
    """Scaled dot-product attention: means of the values, weighted for each query.

    What `jax.nn.dot_product_attention` computes, logits and softmax in float32.
    """
    # Heads come first by hand: given them in the middle, XLA takes a half longer on a
    # CPU, forward and backward.
    queries, keys, values = (
        jnp.swapaxes(heads, 0, 1) for heads in (queries, keys, values)
    )
    # Where only these are float32, they are so because it matters: not the 10 bits that
    # accelerators multiply float32 with.
    is_raised = queries.dtype == jnp.float32 and values.dtype != jnp.float32
    logits = jnp.einsum(
        "hqd,hkd->hqk", queries, keys, preferred_element_type=jnp.float32,
        precision=lax.Precision.HIGHEST if is_raised else None,
    )  # fmt: skip
    logits = logits * queries.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(logits).astype(values.dtype)
    return jnp.swapaxes(jnp.einsum("hqk,hkd->hqd", shares, values), 0, 1)


def fused_attention(
    queries: BFloat16[Array, "seq num_heads head"],
    keys: BFloat16[Array, "seq num_heads head"],
    values: BFloat16[Array, "seq num_heads head"],
) -> BFloat16[Array, "seq num_heads head"]:
    """`mix_values` by cuDNN's kernel, which keeps no logits; NVIDIA GPUs only.

    The kernel wants an even sequence to differentiate and a head width in eights: both
    are padded with zeros that no query reads.
    """
    length, _, width = queries.shape
    odd, missing = length % 2, -width % 8

    def padded(heads):
        return jnp.pad(heads, ((0, odd), (0, 0), (0, missing)))[None]

    read = jnp.full(1, length, jnp.int32) if odd else None
    mixed = jax.nn.dot_product_attention(
        padded(queries), padded(keys), padded(values), scale=width**-0.5,
        query_seq_lengths=read, key_value_seq_lengths=read, implementation="cudnn",
    )  # fmt: skip
    return mixed[0, :length, :, :width]
