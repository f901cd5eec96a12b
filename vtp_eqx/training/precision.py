"""The type that networks compute in; their parameters are always float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from vtp_eqx.config import Precision
from vtp_eqx.models.arrays import leaf_path


# What multiplies or shifts logits and latents: 8 bits of `log 100` are off by 1%.
ALWAYS_FLOAT32 = ("logit_scale", "logit_bias", "scale", "latent_mean", "latent_std")


def cast_params(model: PyTree, precision: Precision) -> PyTree:
    """`model` as its passes use it: its float32 arrays in `precision`.

    A layer computes in the type of its weights; norms, softmax, logits and losses are
    float32 even so. Gradients that come back through this are float32 again.
    """
    if precision == "float32":
        return model

    def rounded(path, leaf):
        if not eqx.is_array(leaf) or leaf.dtype != jnp.float32:
            return leaf
        name = leaf_path(path).split(".")[-1]
        return leaf if name in ALWAYS_FLOAT32 else leaf.astype(jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(rounded, model)
