"""The run that `benchmarks.survive` kills, as a process.

python benchmarks/survive_worker.py FOLDER MODEL [ADDRESS PROCESSES INDEX]

MODEL is `pretraining`, a small one with all objectives, or `line`, a single number
that compiles at once. They learn from the tars in `FOLDER/../tars`, read and decoded as
in a real run. Every batch that a step takes is noted in `taken-INDEX.jsonl`, and the
hash of the last state in `state.txt`.
"""

from collections.abc import Iterator
import dataclasses
import json
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
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader, Prefetcher
from vtp_eqx.data.tars import TarSource
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import arrays_hash, named_arrays
from vtp_eqx.runs.loop import run_training
from vtp_eqx.training.microbatches import Objective
from vtp_eqx.training.pretrain import init_pretraining
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.step import make_step, Step


BEGUN = time.monotonic()
NUM_STEPS = 24
CONFIG = dataclasses.replace(small_config(), num_steps=NUM_STEPS)


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


def pretraining(mesh: Mesh) -> tuple[TrainState, Step]:
    """A small one, with all three objectives."""
    return init_pretraining(CONFIG, np.zeros((0, 32, 32, 3), np.uint8), mesh)


def main() -> None:
    folder, model, *network = sys.argv[1:]
    if network:
        address, processes, index = network
        jax.distributed.initialize(address, int(processes), int(index))
    place, mesh = Path(folder), data_mesh()
    shard = (jax.process_index(), jax.process_count())
    reader = reader_of(place.parent / "tars")
    state, step = {"pretraining": pretraining, "line": line}[model](mesh)

    def noted(first: int) -> Iterator[CaptionedBatch]:
        stream = Prefetcher(reader, start_step=first, shard=shard, num_workers=2)
        with (place / f"taken-{shard[0]}.jsonl").open("a") as file, stream:
            file.write("\n")  # after a line that was torn
            for batch in stream:
                file.write(json.dumps([batch.step + 1, batch.row.tolist()]) + "\n")
                file.flush()
                yield CaptionedBatch(batch.image, batch.tokens)

    state = run_training(
        state, step, noted, num_steps=NUM_STEPS, mesh=mesh, folder=place, log_every=1,
        save_every=3,
    )  # fmt: skip
    if shard[0] == 0:
        arrays = named_arrays(eqx.filter(state, eqx.is_array))
        arrays["key"] = jax.random.key_data(arrays["key"])
        (place / "state.txt").write_text(arrays_hash(arrays))
        (place / "seconds.json").write_text(json.dumps(time.monotonic() - BEGUN))


if __name__ == "__main__":
    main()
