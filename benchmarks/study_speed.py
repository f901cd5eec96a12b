"""How fast the default study's parts run here, as a share of the measured peak.

python -m benchmarks.study_speed

FLOPs are the paper's `2 * parameters * tokens` for a forward pass, three times that for
a training step; attention products, augmentation and rematerialization are work too,
but do not count.
"""

from collections.abc import Callable
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.peak import peak_rate
from benchmarks.table import median_seconds, print_table
from experiments.scale_encoder import LAPTOP
from vtp_eqx.mesh import data_mesh, replicate, shard_batch
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.study.recipe import run
from vtp_eqx.study.run_spec import RunSpec
from vtp_eqx.training.flops import generator_flops, pretrain_flops
from vtp_eqx.training.generate import init_generator_training, LatentBatch
from vtp_eqx.training.parameter_counts import num_parameters
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch


SIZE = "96x3"
REPEATS = 7
BATCH = 256  # of sampling, encoding and decoding

Measured = tuple[str, int, float, float, float]  # name, batch, compile s, run s, FLOPs


def main() -> None:
    specs = {method: run(LAPTOP, method, SIZE, 0) for method in ("AE", "VTP")}
    measured = [tokenizer_step(method, specs[method]) for method in specs]
    measured += [generator_step(specs["VTP"]), sampling(specs["VTP"])]
    measured += coding(specs["VTP"])
    peak = peak_rate()
    rows = [
        (
            name,
            str(batch),
            f"{compiled:.1f}",
            f"{run * 1e3:.1f}",
            f"{batch / run:.0f}",
            f"{flops / run / 1e9:.1f}",
            f"{flops / run / peak:.2f}",
        )
        for name, batch, compiled, run, flops in measured
    ]
    columns = ("part", "batch", "first call s", "median ms", "images/s", "GFLOP/s")
    print_table("Speed of the default study", (*columns, "of peak"), rows)


def tokenizer_step(method: str, spec: RunSpec) -> Measured:
    """One update of a tokenizer with every objective of its method."""
    config, mesh = spec.pretrain, data_mesh()
    image = np.zeros((config.batch_size, 32, 32, 3), np.uint8)
    state, step = init_pretraining(config, image, mesh)
    text = config.tokenizer.text
    ids = None if text is None else np.ones((len(image), text.context), np.int32)
    batch = shard_batch(CaptionedBatch(image, ids), mesh)
    flops = 3 * pretrain_flops(config) * config.batch_size
    times = _timed_steps(replicate(state, mesh), step, batch)
    return f"tokenizer step, {method} {SIZE}", config.batch_size, *times, flops


def generator_step(spec: RunSpec) -> Measured:
    """One update of the diffusion transformer."""
    config, mesh = spec.generate, data_mesh()
    state, step = init_generator_training(config, mesh)
    side, width = config.dit.latent_size, config.dit.latent_width
    latents = np.ones((config.batch_size, side, side, width), np.float32)
    labels = np.zeros(config.batch_size, np.int32)
    batch = shard_batch(LatentBatch(latents, labels), mesh)
    flops = 3 * generator_flops(config.dit) * config.batch_size
    times = _timed_steps(replicate(state, mesh), step, batch)
    return "DiT step", config.batch_size, *times, flops


def sampling(spec: RunSpec) -> Measured:
    """A batch of samples, decoding not included."""
    config, sampler = spec.generate.dit, spec.sampler
    generator = Generator(DiT(config, key=jr.key(0)), "none")
    labels = jnp.zeros(BATCH, jnp.int32)
    draw = lambda: generator.sample(labels, sampler, latents_hash="none", key=jr.key(0))
    calls = sampler.num_steps * (2 if sampler.solver == "heun" else 1)
    flops = generator_flops(config) * BATCH * calls
    return f"sampling, {calls} evaluations", BATCH, *_timed(draw), flops


def coding(spec: RunSpec) -> list[Measured]:
    """Encoding and decoding a batch."""
    config = spec.pretrain.tokenizer
    tokenizer = Tokenizer(config, key=jr.key(0))
    tokens = (config.image_size // config.patch_size) ** 2
    images = jnp.ones((BATCH, config.image_size, config.image_size, 3)) / 2
    encode = eqx.filter_jit(lambda model, rows: jax.vmap(model.encode)(rows))
    decode = eqx.filter_jit(lambda model, rows: jax.vmap(model.decode)(rows))
    latents = encode(tokenizer, images)
    count = lambda part: 2.0 * num_parameters(lambda: part) * tokens * BATCH
    return [
        ("encode", BATCH, *_timed(encode, tokenizer, images), count(tokenizer.encoder)),
        (
            "decode",
            BATCH,
            *_timed(decode, tokenizer, latents),
            count(tokenizer.decoder),
        ),
    ]


def _timed(function: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Seconds of the first call, and the median of later ones."""
    begun = time.perf_counter()
    jax.block_until_ready(function(*args))
    first = time.perf_counter() - begun
    return first, median_seconds(function, *args, repeats=REPEATS)


def _timed_steps(state: Any, step: Any, batch: Any) -> tuple[float, float]:
    """As `_timed`, for a step that consumes its state."""
    held = [state]

    def advance() -> Any:
        held[0], metrics = step(held[0], batch)
        return metrics

    return _timed(advance)


if __name__ == "__main__":
    main()
