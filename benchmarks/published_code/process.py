"""A process that times the work of one library on demand: see `side_by_side`.

Imports neither library: one of them is missing where the other one runs.
"""

from collections.abc import Callable, Mapping
import itertools
import json
from pathlib import Path
import resource
import sys
import time
from typing import Any

import numpy as np


NUM_PRODUCTS = 8

Part = Callable[[], Any]  # returns when its result is there
Product = tuple[int, int, int]  # rows, inner width and columns


def serve(answers: Mapping[str, Part], parts: Mapping[str, Part]) -> None:
    """Answers each name on standard input with a line of JSON, "version" at first.

    `answers` say what they return, `parts` are timed.
    """
    for line in itertools.chain(["version"], sys.stdin):
        name = line.strip()
        if name == "peak":
            answer = peak_memory()
        else:
            answer = answers[name]() if name in answers else timed(parts[name])
        print(json.dumps(answer), flush=True)


def timed(part: Part) -> dict[str, float]:
    """Wall and processor seconds of one call, and the pages the system handed out."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    part()
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "busy": busy, "pages": after.ru_minflt - before.ru_minflt}


def matrices(product: Product) -> list[np.ndarray]:
    """The two of a plain product, the second transposed as weights are."""
    rows, inner, columns = product
    draw = np.random.default_rng(0).standard_normal
    return [draw((size, inner), np.float32) for size in (rows, columns)]


def product_flops(product: Product) -> float:
    """FLOPs of the part "product", which is several of them."""
    rows, inner, columns = product
    return 2.0 * NUM_PRODUCTS * rows * inner * columns


def peak_memory() -> float:
    """The most memory this process ever had, in MiB.

    Not by `getrusage`, which counts the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
