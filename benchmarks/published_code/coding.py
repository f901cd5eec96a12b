"""One library encodes and decodes a batch here, timed: see `published_torch`.

    python coding.py ours|torch CLONE CHECKPOINT PIXELS OUTPUTS REPEATS

Either library may be missing, so each is imported where it is used. PIXELS is an .npy
of images, float32 `[batch, height, width, 3]` in [0, 1]; OUTPUTS becomes an .npz of
latents and pixels, channels last. Prints one line of JSON.
"""

from collections.abc import Callable
import json
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np


PUBLISHED_CODE = Path(__file__).parents[2] / "experiments" / "published_code"

# Rows, inner width and columns of the largest product in a block of VTP's base.
PRODUCT = (2056, 768, 2304)

Step = Callable[[Any], Any]  # returns when its result is there
Side = tuple[str, Any, Step, Step, Callable[[Any], np.ndarray], Step]


def ours(clone: str, checkpoint: Path, pixels: np.ndarray) -> Side:
    """Version, input, encoder, decoder, what puts channels last in numpy, and the
    product of a pair of matrices, the second transposed as weights are."""
    import equinox as eqx
    import jax

    from vtp_eqx.tokenizer import load

    tokenizer = load(checkpoint)
    encode = eqx.filter_jit(lambda model, rows: jax.vmap(model.encode)(rows))
    decode = eqx.filter_jit(lambda model, rows: jax.vmap(model.decode)(rows))
    product = jax.jit(lambda left, right: left @ right.T)
    return (
        f"jax {jax.__version__}",
        jax.numpy.asarray(pixels),
        lambda images: jax.block_until_ready(encode(tokenizer, images)),
        lambda latents: jax.block_until_ready(decode(tokenizer, latents)),
        np.asarray,
        lambda pair: jax.block_until_ready(product(*pair)),
    )


def published(clone: str, checkpoint: Path, pixels: np.ndarray) -> Side:
    """The same; the published model is given normalized pixels, channels first."""
    sys.path[:0] = [clone, str(PUBLISHED_CODE)]
    from outputs import tokenizer_model
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    model, _ = tokenizer_model(checkpoint)
    mean, std = (
        torch.tensor(values)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = ((torch.from_numpy(pixels) - mean) / std).permute(0, 3, 1, 2).contiguous()

    def channels_last(x: Any) -> np.ndarray:
        x = x.permute(0, 2, 3, 1)
        return (x * std + mean if x.shape[-1] == 3 else x).numpy()

    return (
        f"torch {torch.__version__}",
        images,
        model.get_reconstruction_latents,
        model.get_latents_decoded_images,
        channels_last,
        lambda pair: torch.from_numpy(pair[0]) @ torch.from_numpy(pair[1]).T,
    )


def seconds(step: Step, given: Any, repeats: int) -> tuple[float, float, Any]:
    """Of the first call, of the median of `repeats` later ones, and the result."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        result = step(given)
        times.append(time.perf_counter() - started)
    return times[0], statistics.median(times[1:]), result


def matrices(product: tuple[int, int, int]) -> list[np.ndarray]:
    """The two of a plain product, the second transposed as weights are."""
    rows, inner, columns = product
    draw = np.random.default_rng(0).standard_normal
    return [draw((size, inner), np.float32) for size in (rows, columns)]


def peak_memory() -> float:
    """The most memory this process ever had, in MiB.

    Not by `getrusage`, which counts the process that started this one.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    name, clone, checkpoint, pixels, outputs, repeats = sys.argv[1:]
    make = {"ours": ours, "torch": published}[name]
    version, images, encode, decode, last, product = make(
        clone, Path(checkpoint), np.load(pixels)
    )
    loaded = peak_memory()
    first_encode, encoding, latents = seconds(encode, images, int(repeats))
    first_decode, decoding, decoded = seconds(decode, latents, int(repeats))
    rows, inner, columns = PRODUCT
    _, multiplying, _ = seconds(product, matrices(PRODUCT), 5 * int(repeats))
    measured = {
        "version": version,
        "product_rate": 2 * rows * inner * columns / multiplying,
        "first": first_encode + first_decode,
        "encode": encoding,
        "decode": decoding,
        "loaded": loaded,
        "peak": peak_memory(),
    }
    np.savez(outputs, allow_pickle=False, latents=last(latents), pixels=last(decoded))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
