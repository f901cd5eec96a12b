"""Convolutions and pools over one image, channels last."""

from typing import Literal

import equinox as eqx
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


Padding = Literal["SAME", "VALID"]


class Convolution(eqx.Module):
    """A convolution of one channels-last image.

    "SAME" pads with zeros to keep `side / stride`, "VALID" pads nothing, and a number
    pads so many zeros at each end.
    """

    weight: Float[Array, "rows columns in out"]
    bias: Float[Array, " out"] | None
    stride: int = eqx.field(static=True, default=1)
    padding: Padding | int = eqx.field(static=True, default="SAME")

    @classmethod
    def drawn(
        cls,
        in_width: int,
        out_width: int,
        *,
        size: int,
        stride: int = 1,
        gain: float = 1.0,
        key: PRNGKeyArray,
    ) -> "Convolution":
        """Weights are drawn with variance `gain^2 / fan_in`, biases are 0."""
        std = gain / (size * size * in_width) ** 0.5
        shape = (size, size, in_width, out_width)
        weight = std * jr.normal(key, shape, jnp.float32)
        return cls(weight, jnp.zeros(out_width, jnp.float32), stride)

    def __call__(
        self, x: Float[Array, "height width in"]
    ) -> Float[Array, "down across out"]:
        padding = self.padding
        spread = lax.conv_general_dilated(
            x[None],
            self.weight,
            (self.stride, self.stride),
            [(padding, padding)] * 2 if isinstance(padding, int) else padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return spread[0] if self.bias is None else spread[0] + self.bias


def max_pool(
    x: Float[Array, "height width channels"],
    size: int,
    stride: int,
    padding: Padding = "VALID",
) -> Float[Array, "down across channels"]:
    """The largest value of every `size` x `size` window; padding never wins."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (size, size, 1), (stride, stride, 1), padding
    )


def mean_pool(
    x: Float[Array, "height width channels"], size: int
) -> Float[Array, "height width channels"]:
    """The mean around every place, over those of its window inside the image."""

    def window_sum(values: Array) -> Array:
        return lax.reduce_window(
            values, 0.0, lax.add, (size, size, 1), (1, 1, 1), "SAME"
        )

    return window_sum(x) / window_sum(jnp.ones_like(x[..., :1]))
