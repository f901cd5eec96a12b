"""The runs that `benchmarks.survive` kills, each a process.

python benchmarks/survive_worker.py FOLDER MODEL

A training is `pretraining`, a small one with all objectives, or `line`, a single
number that compiles at once. They learn from the tars in `FOLDER/../tars`, read and
decoded as in a real run. Every batch that a step takes is noted in `taken-INDEX.jsonl`,
and the hash of the last state in `state.txt`. `extraction` encodes the same images, and
`sampling` draws some. Nothing here touches a device when it is imported: processes are
forked from one that has the libraries.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from benchmarks.works import small_config
from vtp_eqx.config import (
    decoder_like,
    DiTConfig,
    LatentsConfig,
    SampleConfig,
    SamplerConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader, Prefetcher
from vtp_eqx.data.tars import TarSource
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import arrays_hash, latents_hash, named_arrays
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.extract_latents import extract_latents
from vtp_eqx.runs.loop import run_training
from vtp_eqx.runs.sample import sample
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import make_step, Step


NUM_STEPS, NUM_IMAGES = 24, 96
CONFIG = dataclasses.replace(small_config(), num_steps=NUM_STEPS)
RESTORING, READY = "restoring", "ready.jsonl"  # files in the folder of a run


def reader_of(tars: Path) -> ExampleReader:
    """Reads the tars, from two shards at a time."""
    source = TarSource(tars)
    sampler = make_sampler(source, CONFIG.batch_size, seed=0, window=2)
    return ExampleReader(source=source, sampler=sampler, size=32, encode=_ids)


def _ids(captions: list[str]) -> np.ndarray:
    """A token for each of the first letters, and the end."""
    letters = [[1 + ord(letter) % 100 for letter in text[:15]] for text in captions]
    return np.array([[*row, 255] for row in letters], np.int32)


class Line(eqx.Module):
    """A student that is one number."""

    slope: jax.Array


def line(mesh: Mesh) -> tuple[TrainState, Step]:
    """Fits a number, with noise, by a step like any other."""

    def prepare(batch: CaptionedBatch, key: Any) -> jax.Array:
        image = jnp.asarray(batch.image)
        rows = jnp.mean(image.astype(jnp.float32), axis=(1, 2, 3)) / 255
        return rows + jax.random.normal(key, rows.shape)

    def terms(student, teacher, views, step, key):
        return {"error": (student.slope * views - 1) ** 2}, {}

    optimizer = optax.adam(0.1)
    state = TrainState.start(
        Line(jnp.zeros(())), Line(jnp.zeros(())), FixedWeights({"error": 1.0}),
        optimizer, key=jax.random.key(0),
    )  # fmt: skip
    step = make_step(
        state, Objective(prepare, terms), optimizer, mesh,
        momentum=lambda step: jnp.asarray(0.5, jnp.float32),
        ema_source=lambda student: student,
    )  # fmt: skip
    return state, step


def joint_training(mesh: Mesh) -> tuple[TrainState, Step]:
    """A small one, with all three objectives."""
    return init_pretraining(CONFIG, np.zeros((0, 32, 32, 3), np.uint8), mesh)


def untrained() -> Tokenizer:
    """A tokenizer of 16 pixels, with statistics as if measured."""
    shape = TransformerConfig(width=16, depth=1, num_heads=2)
    config = TokenizerConfig(
        encoder=shape, decoder=decoder_like(shape), image_size=16, patch_size=8,
        latent_width=4,
    )  # fmt: skip
    tokenizer = eqx.filter_jit(Tokenizer)(config, key=jax.random.key(0))
    return tokenizer.with_statistics(jnp.zeros(4), jnp.full(4, 0.5))


def forked(folder: str, model: str, index: int, processes: int, port: int) -> None:
    """`main` in a process of one device that says what it says into a file."""
    output = os.open(
        Path(folder, f"output-{index}.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.pop("XLA_FLAGS", None)
    main(folder, model, index, processes, port)


def main(
    folder: str, model: str, index: int = 0, processes: int = 1, port: int = 0
) -> None:
    """One process of a run."""
    begun, place = time.monotonic(), Path(folder)
    jax.config.update("jax_platforms", "cpu")
    # Compiled once for all: or a kill would hardly ever find anything else.
    jax.config.update("jax_compilation_cache_dir", str(place.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    jobs = {"extraction": extraction, "sampling": sampling}
    if model in jobs:
        jobs[model](place)
    else:
        training(place, model, begun)
    if index == 0:
        (place / "seconds.json").write_text(json.dumps(time.monotonic() - begun))


def extraction(place: Path) -> None:
    """Twelve shards of latents."""
    source = TarSource(place.parent / "tars")
    config = LatentsConfig(shard_images=8)
    extract_latents(config, untrained(), source, place, device_images=4, num_threads=2)


def sampling(place: Path) -> None:
    """Forty-eight samples in groups of two."""
    tokenizer = untrained()
    shape = DiTConfig(
        width=16, depth=1, num_heads=2, latent_width=4, latent_size=2, num_classes=5
    )
    dit = eqx.filter_jit(DiT)(shape, key=jax.random.key(1))
    generator = Generator(dit, latents_hash(tokenizer))
    config = SampleConfig(
        num_samples=48, sampler=SamplerConfig(num_steps=2, guidance=1.5), group_size=2
    )
    sample(config, generator, tokenizer, place)


def training(place: Path, model: str, begun: float) -> None:
    """Steps to the end, from wherever the run stopped."""
    mesh = data_mesh()
    shard = (jax.process_index(), jax.process_count())
    reader = reader_of(place.parent / "tars")
    state, step = {"pretraining": joint_training, "line": line}[model](mesh)
    restore, mark = Checkpoints.restore, place / RESTORING

    def marked(self: Checkpoints, template: TrainState) -> TrainState:
        if shard[0] == 0:
            mark.touch()
        state = restore(self, template)
        if shard[0] == 0:
            mark.unlink()
        return state

    Checkpoints.restore = marked

    def noted(first: int) -> Iterator[CaptionedBatch]:
        stream = Prefetcher(reader, start_step=first, shard=shard, num_workers=2)
        with (place / f"taken-{shard[0]}.jsonl").open("a") as file, stream:
            file.write("\n")  # behind a line that was torn
            for number, batch in enumerate(stream):
                file.write(json.dumps([batch.step + 1, batch.row.tolist()]) + "\n")
                file.flush()
                if number == 1 and shard[0] == 0:  # one step is done
                    with (place / READY).open("a") as ready:
                        ready.write(json.dumps(time.monotonic() - begun) + "\n")
                yield CaptionedBatch(batch.image, batch.tokens)

    state = run_training(
        state, step, noted, num_steps=NUM_STEPS, mesh=mesh, folder=place, log_every=1,
        save_every=3,
    )  # fmt: skip
    if shard[0] == 0:
        arrays = named_arrays(eqx.filter(state, eqx.is_array))
        arrays["key"] = jax.random.key_data(arrays["key"])
        (place / "state.txt").write_text(arrays_hash(arrays))


if __name__ == "__main__":
    main(*sys.argv[1:3])
