"""One library trains and samples a DiT-B here, on demand: see `train_step`.

    python -m benchmarks.published_code.training SIDE CLONE WEIGHTS DEPTH BATCH REMAT

SIDE is ours or torch. Either library may be missing, so each is imported where it is
used. WEIGHTS is an .npz of a state dict in the published layout: "ours" writes it,
"torch" reads it.
"""

import os
from pathlib import Path
import sys
from typing import Any

import numpy as np

from benchmarks.published_code.process import jax_product, serve, Sides, torch_product


SIDE, CHANNELS, CLASSES, WIDTH, HEADS = 16, 64, 1000, 768, 12
EVALUATIONS = 2  # of a sampling
PARTS = ("product", "train", "sample")


def ours(clone: str, weights: Path, depth: int, batch_size: int, remat: Any) -> Sides:
    """What can be asked for, by name."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from vtp_eqx.config import DiTConfig, GenerateConfig, SamplerConfig
    from vtp_eqx.interop.lightningdit.checkpoint import dit_to_published
    from vtp_eqx.mesh import data_mesh, replicate, shard_batch
    from vtp_eqx.models.generator import sample_latents
    from vtp_eqx.training.generate import init_generator_training, LatentBatch

    dit = DiTConfig(
        width=WIDTH, depth=depth, num_heads=HEADS, latent_width=CHANNELS,
        latent_size=SIDE, num_classes=CLASSES, remat=remat,
    )  # fmt: skip
    config = GenerateConfig(dit=dit, batch_size=batch_size, num_steps=1000)
    mesh = data_mesh()
    start, step = init_generator_training(config, mesh)
    # A new model's velocity is zero: two of them would agree on anything.
    draw = np.random.default_rng(1).standard_normal
    model = jax.tree.map(
        lambda leaf: leaf + 0.02 * draw(leaf.shape, np.float32), start.student
    )
    tensors, _ = dit_to_published(model)
    np.savez(weights, allow_pickle=False, **tensors)
    state = replicate(eqx.tree_at(lambda state: state.student, start, model), mesh)

    latents, labels, times, noise = (jnp.asarray(part) for part in examples(batch_size))
    batch = shard_batch(LatentBatch(latents, labels), mesh)
    sampler = SamplerConfig(num_steps=EVALUATIONS, time_shift=0.0)
    sample = eqx.filter_jit(lambda dit: sample_latents(dit, labels, noise, sampler))
    velocity = eqx.filter_jit(lambda dit: dit.batch(latents, times, labels))

    def train():
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    answers = {
        "version": lambda: f"jax {jax.__version__}",
        "velocity": lambda: np.asarray(velocity(model)).tolist(),
    }
    return answers, {
        "train": train,
        "sample": lambda: jax.block_until_ready(sample(model)),
        "product": jax_product(),
    }


def published(
    clone: str, weights: Path, depth: int, batch_size: int, remat: str
) -> Sides:
    """The same of the published model: its step as its `train.py` makes it."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    sys.path.insert(0, clone)
    from copy import deepcopy

    from models.lightningdit import LightningDiT  # pyright: ignore
    import torch  # pyright: ignore
    from torch.nn.functional import cosine_similarity  # pyright: ignore

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = LightningDiT(
        input_size=SIDE, patch_size=1, in_channels=CHANNELS, hidden_size=WIDTH,
        depth=depth, num_heads=HEADS, num_classes=CLASSES, use_swiglu=True,
        use_rope=True, use_rmsnorm=True, use_checkpoint=remat == "full",
    )  # fmt: skip
    with np.load(weights) as tensors:
        state = {name: torch.from_numpy(tensors[name]) for name in tensors.files}
    model.load_state_dict(state)
    average = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=2e-4, weight_decay=0, betas=(0.9, 0.95)
    )
    # Channels first; the rest is as it is.
    latents, labels, times, noise = (
        torch.from_numpy(np.moveaxis(part, -1, 1).copy() if part.ndim == 4 else part)
        for part in examples(batch_size)
    )

    def train():
        model.train()
        start = torch.randn_like(latents)
        t = torch.sigmoid(torch.randn(batch_size) * 1.25 - 0.5)
        along = t[:, None, None, None]
        target = latents - start
        found = model((1 - along) * start + along * latents, t, labels)
        loss = ((found - target) ** 2).mean()
        loss = loss + (1 - cosine_similarity(found, target, dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pairs = zip(average.parameters(), model.parameters(), strict=True)
        with torch.no_grad():
            for mean, parameter in pairs:
                mean.mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
        return loss.item()

    @torch.no_grad()
    def sample():
        average.eval()
        x = noise
        for number in range(EVALUATIONS):
            t = torch.full((batch_size,), number / EVALUATIONS)
            x = x + average(x, t, labels) / EVALUATIONS
        return x

    @torch.no_grad()
    def velocity():
        found = average.eval()(latents, times, labels)
        return np.moveaxis(found.numpy(), 1, -1).tolist()

    answers = {"version": lambda: f"torch {torch.__version__}", "velocity": velocity}
    return answers, {
        "train": train,
        "sample": sample,
        "product": torch_product(),
    }


def examples(batch_size: int) -> tuple[np.ndarray, ...]:
    """Latents, labels, times and noise, channels last."""
    draw = np.random.default_rng(0)
    shape = (batch_size, SIDE, SIDE, CHANNELS)
    return (
        draw.standard_normal(shape, np.float32),
        draw.integers(0, CLASSES, batch_size, np.int32),
        draw.random(batch_size, np.float32),
        draw.standard_normal(shape, np.float32),
    )


if __name__ == "__main__":
    name, clone, weights, depth, batch_size, remat = sys.argv[1:]
    make = {"ours": ours, "torch": published}[name]
    serve(*make(clone, Path(weights), int(depth), int(batch_size), remat))
