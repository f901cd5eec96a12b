"""A process that times the work of one library on demand: see `side_by_side`.

Either library may be missing, so each is imported where it is used.
"""

from collections.abc import Callable, Mapping
import itertools
import json
import math
from pathlib import Path
import resource
import sys
import time
from typing import Any

import numpy as np


# Rows, inner width and columns of the largest product in a block, and how often.
PRODUCT, NUM_PRODUCTS = (2048, 768, 2304), 8
PRODUCT_FLOPS = 2.0 * NUM_PRODUCTS * math.prod(PRODUCT)

Part = Callable[[], Any]  # returns when its result is there
Sides = tuple[dict[str, Part], dict[str, Part]]  # answers, and parts to time


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


def jax_product() -> Part:
    """Plain products of matrices, the second transposed as weights are."""
    import jax

    left, right = map(jax.numpy.asarray, matrices())
    multiply = jax.jit(lambda left, right: left @ right.T)
    run = lambda: [multiply(left, right) for _ in range(NUM_PRODUCTS)]
    return lambda: jax.block_until_ready(run())


def torch_product() -> Part:
    """The same by torch."""
    import torch  # pyright: ignore

    left, right = map(torch.from_numpy, matrices())
    return lambda: [left @ right.T for _ in range(NUM_PRODUCTS)]


def matrices() -> list[np.ndarray]:
    """The two of a plain product."""
    rows, inner, columns = PRODUCT
    draw = np.random.default_rng(0).standard_normal
    return [draw((size, inner), np.float32) for size in (rows, columns)]


def peak_memory() -> float:
    """The most memory this process ever had, in MiB.

    Not by `getrusage`, which counts the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
