"""The matrix-product peak of this machine: what other benchmarks are a share of.

python -m benchmarks.peak
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike

from benchmarks.table import median_seconds, print_table


# Below a thousand the start of a product counts; a CPU is at its best from there on.
CPU_SIZES = (512, 1024, 2048)
ACCELERATOR_SIZES = (2048, 4096, 8192)


def product_rate(
    size: int, *, dtype: DTypeLike = jnp.float32, repeats: int = 7
) -> float:
    """FLOP/s of one product of two square matrices, by the median of `repeats`.

    A multiplication and an addition count as two. Precision is JAX's default, as in
    the models: on some accelerators that is below float32.
    """
    left, right = jr.normal(jr.key(0), (2, size, size), dtype)
    return (
        2 * size**3 / median_seconds(jax.jit(jnp.matmul), left, right, repeats=repeats)
    )


def peak_rate(*, dtype: DTypeLike = jnp.float32, repeats: int = 7) -> float:
    """The best `product_rate` over a few sizes, in FLOP/s."""
    rates = [product_rate(size, dtype=dtype, repeats=repeats) for size in _sizes()]
    return max(rates)


def main() -> None:
    rates = {
        (size, dtype): product_rate(size, dtype=dtype)
        for dtype in ("float32", "bfloat16")
        for size in _sizes()
    }
    peak = max(rate for (_, dtype), rate in rates.items() if dtype == "float32")
    rows = [
        (
            f"{size} {dtype}",
            f"{2 * size**3 / rate * 1e3:.2f}",
            f"{rate / 1e9:.1f}",
            f"{rate / peak:.2f}",
        )
        for (size, dtype), rate in rates.items()
    ]
    columns = ("square product", "median ms", "GFLOP/s", "of float32 peak")
    print_table("Matrix-product peak", columns, rows)


def _sizes() -> tuple[int, ...]:
    return CPU_SIZES if jax.default_backend() == "cpu" else ACCELERATOR_SIZES


if __name__ == "__main__":
    main()
