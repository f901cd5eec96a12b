"""Tables that say where and from what they come."""

from collections.abc import Sequence
import os
from pathlib import Path
import platform

import jax

from vtp_eqx.study.checkout import commit


def machine() -> str:
    """The processor, its cores, the load when asked, and JAX's devices."""
    load, _, _ = os.getloadavg()
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return (
        f"{_processor()}, {os.cpu_count()} cores (load {load:.1f}); "
        f"jax {jax.__version__} on {devices}; Python {platform.python_version()}"
    )


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Prints a Markdown table, headed by title, machine and commit."""
    print(f"\n**{title}**\n\nmachine: {machine()}  \ncommit: {commit()}\n")
    print(markdown(columns, rows))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    ruler = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(columns), f"|{'|'.join(ruler)}|", *map(line, rows)])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()
