"""The two feed-forward layers of a transformer block."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from vtp_eqx.config import FeedForward
from vtp_eqx.nn.linear import Linear
from vtp_eqx.nn.recompute import recomputed


# Of the hidden width of each SwiGLU (published code).
_MULTIPLES = {"swiglu": 8, "swiglu32": 32, "swiglu64": 64, "swiglu128": 128}


def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The exact Gaussian error linear unit."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The sigmoid approximation of OpenAI's CLIP: `x * sigmoid(1.702 x)`."""
    return x * jax.nn.sigmoid(1.702 * x)


def swiglu_width(width: int, ratio: float, kind: FeedForward = "swiglu") -> int:
    """Two thirds of `width * ratio`, up to the next multiple (published code)."""
    hidden = int(int(width * ratio) * 2 / 3)
    multiple = _MULTIPLES[kind]
    return -(-hidden // multiple) * multiple


class SwiGLU(eqx.Module):
    """`out(silu(gate(x)) * up(x))`: Shazeer 2020, https://arxiv.org/abs/2002.05202."""

    gate: Linear
    up: Linear
    out: Linear

    def __init__(self, width: int, hidden_width: int, *, key: PRNGKeyArray):
        gate_key, up_key, out_key = jr.split(key, 3)
        self.gate = Linear(width, hidden_width, key=gate_key)
        self.up = Linear(width, hidden_width, key=up_key)
        self.out = Linear(hidden_width, width, key=out_key)

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        def gated(out, gate, up):
            return out(jax.nn.silu(gate) * up)

        return recomputed(gated)(self.out, self.gate(x), self.up(x))


class MLP(eqx.Module):
    """`out(activation(up(x)))`."""

    up: Linear
    out: Linear
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden_width: int,
        *,
        activation: Callable[[Array], Array] = gelu,
        key: PRNGKeyArray,
    ):
        up_key, out_key = jr.split(key)
        self.up = Linear(width, hidden_width, key=up_key)
        self.out = Linear(hidden_width, width, key=out_key)
        self.activation = activation

    def __call__(self, x: Float[Array, "*axes width"]) -> Float[Array, "*axes width"]:
        def activated(out, up):
            return out(self.activation(up))

        return recomputed(activated)(self.out, self.up(x))
