"""One library encodes and decodes a batch here, on demand: see `published_torch`.

    python -m benchmarks.published_code.coding SIDE CLONE FOLDER

SIDE is ours or torch. Either library may be missing, so each is imported where it is
used. FOLDER has a published checkpoint and `pixels.npy`, images in [0, 1], float32
`[batch, height, width, 3]`. Outputs become an .npz there, channels last.
"""

import os
from pathlib import Path
import sys
from typing import Any

import numpy as np

from benchmarks.published_code.process import jax_product, serve, Sides, torch_product


PUBLISHED_CODE = Path(__file__).parents[2] / "experiments" / "published_code"
PARTS = ("product", "encode", "decode")  # one decodes what was encoded before


def ours(clone: str, folder: Path) -> Sides:
    """What can be asked for, by name."""
    import equinox as eqx
    import jax

    from vtp_eqx.tokenizer import load

    tokenizer = load(folder)
    encode = eqx.filter_jit(lambda model, rows: jax.vmap(model.encode)(rows))
    decode = eqx.filter_jit(lambda model, rows: jax.vmap(model.decode)(rows))
    found: dict[str, Any] = {"images": jax.numpy.load(folder / "pixels.npy")}

    def encode_images() -> None:
        found["latents"] = jax.block_until_ready(encode(tokenizer, found["images"]))

    def decode_latents() -> None:
        found["pixels"] = jax.block_until_ready(decode(tokenizer, found["latents"]))

    answers = {
        "version": lambda: f"jax {jax.__version__}",
        "outputs": lambda: save(
            folder / "ours.npz", latents=found["latents"], pixels=found["pixels"]
        ),
    }
    parts = {"encode": encode_images, "decode": decode_latents}
    return answers, {**parts, "product": jax_product()}


def published(clone: str, folder: Path) -> Sides:
    """The same; the published model is given normalized pixels, channels first."""
    sys.path[:0] = [clone, str(PUBLISHED_CODE)]
    from outputs import tokenizer_model  # pyright: ignore
    import torch  # pyright: ignore

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    model, _ = tokenizer_model(folder)
    mean, std = map(torch.tensor, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = (torch.from_numpy(np.load(folder / "pixels.npy")) - mean) / std
    found = {"images": images.permute(0, 3, 1, 2).contiguous()}

    def encode() -> None:
        found["latents"] = model.get_reconstruction_latents(found["images"])

    def decode() -> None:
        found["pixels"] = model.get_latents_decoded_images(found["latents"])

    def outputs() -> str:
        latents, decoded = (
            found[name].permute(0, 2, 3, 1) for name in ("latents", "pixels")
        )
        return save(folder / "torch.npz", latents=latents, pixels=decoded * std + mean)

    answers = {"version": lambda: f"torch {torch.__version__}", "outputs": outputs}
    return answers, {"encode": encode, "decode": decode, "product": torch_product()}


def save(path: Path, **arrays: Any) -> str:
    """Writes what was computed last, and returns where."""
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


if __name__ == "__main__":
    name, clone, folder = sys.argv[1:]
    serve(*{"ours": ours, "torch": published}[name](clone, Path(folder)))
