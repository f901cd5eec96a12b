"""What makes a loss meaningless is an error, never a silent number.

Values can be read only outside of `jax.jit`: there, a bad one raises `ValueError`. A
traced one turns the loss into NaN, which the check of finite metrics after each step
reports. Values are read with NumPy, because JAX traces whatever happens inside of
`jax.jit`, to constants too.
"""

from jax import lax
from jax.core import Tracer
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, ScalarLike
import numpy as np

from vtp_eqx.config import require


def require_finite(**arrays: Num[Array, "..."]) -> None:
    """Raises `ValueError` where a concrete array, given by its name, is not finite.

    Traced arrays pass: NaN in them stays NaN in the loss.
    """
    for name, array in arrays.items():
        require(
            is_traced(array) or bool(np.isfinite(array).all()),
            f"`{name}` must be finite; got NaN or infinity among its {array.size} "
            "values: look at the inputs and the learning rate of the step before.",
        )


def require_positive(**values: ScalarLike) -> None:
    """Raises `ValueError` where a concrete value, given by its name, is not above 0."""
    for name, value in values.items():
        require(
            is_traced(value) or bool(np.greater(value, 0)),
            f"`{name}` must be positive; got {value}: change it.",
        )


def unless_empty(
    values: Float[Array, "*shape"],
    kept: Bool[Array, " rows"],
    *,
    axis_name: str | None = None,
) -> Float[Array, "*shape"]:
    """`values` where any row of the global batch is kept, else NaN.

    Raises `ValueError` instead where `kept` is concrete.
    """
    require(
        is_traced(kept) or bool(np.any(kept)),
        f"A masked loss needs a hidden patch; got none in {kept.size} rows: raise "
        "`mask_rate` or `mask_ratio`, or leave the term out.",
    )
    num_kept = kept.sum()
    if axis_name is not None:
        num_kept = lax.psum(num_kept, axis_name)
    return jnp.where(num_kept > 0, values, jnp.nan)


def is_traced(value: ScalarLike | Num[Array, "..."] | Bool[Array, "..."]) -> bool:
    """Whether `value` stands for numbers that do not exist yet."""
    return isinstance(value, Tracer)
