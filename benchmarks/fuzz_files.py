"""Damage for a file, as the format that its name tells allows."""

import random

from benchmarks.fuzz_formats import mutate_image, mutate_tar, mutate_torch
from benchmarks.fuzz_mutations import (
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_npz,
    mutate_safetensors,
    mutate_text,
)


Rng = random.Random


def mutated(name: str, content: bytes, rng: Rng, marker: str) -> bytes:
    """The content of a file, damaged as its format allows."""
    suffix = name.rpartition(".")[2]
    if not content:
        return rng.randbytes(9)
    match suffix:
        case "npz":
            return mutate_npz(content, rng, marker)
        case "npy":
            return mutate_npy(content, rng, marker)
        case "safetensors":
            return mutate_safetensors(content, rng)
        case "pt" | "pth":
            return mutate_torch(content, rng, marker)
        case "tar":
            return mutate_tar(content, rng, marker)
        case "json":
            return mutate_json(content, rng)
        case "jsonl":
            lines = content.split(b"\n")
            lines[0] = mutate_json(lines[0], rng)
            return b"\n".join(lines)
        case "txt" | "cls":
            return mutate_text(content, rng)
        case _ if name in _METADATA:
            return mutate_json(content, rng)
        case _ if suffix in ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "pgm"):
            return mutate_image(content, rng)
    return mutate_bytes(content, rng)


_METADATA = ("_METADATA", "_CHECKPOINT_METADATA", "sums", "metadata")
