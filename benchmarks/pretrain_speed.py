"""The speed of a pre-training's data, of its step, and of both together in a run.

python -m benchmarks.pretrain_speed
python -m benchmarks.pretrain_speed --preset B --batch-size 512  # an accelerator

Scenes in tars are read, decoded and cut as in any run. A step alone sees the same batch
again and again, with all objectives and with each; together they are a run, log and
checkpoint included, that says itself how long it waited for data. MFU is the FLOPs of a
step by formula, backward passes included, as a share of the peak.
"""

import dataclasses
import json
from pathlib import Path
import statistics
import tempfile
import timeit
from typing import Literal

import jax
import numpy as np
import tyro

from benchmarks.table import print_table
from benchmarks.works import OBJECTIVES, only
from experiments import make_scenes_tars
from experiments.pretrain import PRESETS
from vtp_eqx.config import PretrainConfig
from vtp_eqx.config.presets import with_batch
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader, Prefetcher
from vtp_eqx.data.tars import TarSource
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.runs.batches import Batches
from vtp_eqx.runs.captions import caption_encoder, text_tokenizer_for
from vtp_eqx.runs.loop import Callbacks, run_training
from vtp_eqx.runs.throughput import StepCost
from vtp_eqx.training.flops import device_peak, train_flops
from vtp_eqx.training.pretrain import init_pretraining, text_config
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.terms.reconstruction import blank_perceptual_if_used


NUM_TARS = 4

Cells = tuple[str, str, str, str, str]


class Bench:
    """A configuration, its data, and the peak of the devices."""

    def __init__(self, config: PretrainConfig, folder: Path, workers: int):
        self.config, self.folder = config, folder
        self.mesh = data_mesh()
        self.peak = device_peak()[0] * self.mesh.devices.size
        text = config.tokenizer.text
        assert text is not None  # as in every preset
        tars, count = folder / "tars", max(2000, 4 * config.batch_size)
        size = config.tokenizer.image_size
        make_scenes_tars.make(
            make_scenes_tars.Options(
                out=tars, num=count, size=size, per_shard=-(-count // NUM_TARS),
                format="jpg", workers=workers,
            )
        )  # fmt: skip
        source = TarSource(tars)
        words = text_tokenizer_for(text, source, folder / "words.json")
        reader = ExampleReader(
            source=source,
            sampler=make_sampler(source, config.batch_size, seed=0),
            size=size,
            encode=caption_encoder(words, text),
        )
        self.feed = Batches(reader=reader, folder=folder, workers=workers)
        self.workers = workers
        # How fast LPIPS is does not depend on its weights.
        perceptual = blank_perceptual_if_used(config.reconstruction)
        self.given = np.zeros((0, 8, 8, 3), np.uint8), self.mesh, perceptual

    def data_alone(self, num_steps: int) -> Cells:
        """Batches that nobody uses, after a few that were read ahead."""
        with Prefetcher(self.feed.reader, num_workers=self.workers) as stream:
            for _ in range(5):
                next(stream)
            seconds = timeit.timeit(lambda: next(stream), number=num_steps)
        rate = f"{self.config.batch_size * num_steps / seconds:.0f}"
        return f"data alone, {self.workers} threads", rate, "", "", ""

    def step_alone(self, name: str, config: PretrainConfig, num_steps: int) -> Cells:
        """The same batch, on the device."""
        state, step = init_pretraining(config, *self.given)
        held, batch = [state], shard_batch(next(self.feed(0)), self.mesh)
        batch = CaptionedBatch(
            batch.image, None if text_config(config) is None else batch.caption
        )

        def advance():
            held[0], metrics = step(held[0], batch)
            jax.block_until_ready(metrics)

        advance()
        seconds = timeit.repeat(advance, number=1, repeat=num_steps)
        return self.cells(name, config, statistics.median(seconds), "")

    def together(self, num_steps: int) -> Cells:
        """A run of its own, of which the second half is measured."""
        config, place = self.config, self.folder / "run"
        state, step = init_pretraining(config, *self.given)
        run_training(
            state, step, self.feed, num_steps=2 * num_steps, mesh=self.mesh,
            folder=place, log_every=num_steps, save_every=2 * num_steps,
            callbacks=Callbacks(cost=StepCost(images=config.batch_size)),
        )  # fmt: skip
        last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
        seconds = config.batch_size / last["images_per_second"]
        return self.cells("both: a run", config, seconds, f"{last['data_wait']:.1%}")

    def cells(
        self, name: str, config: PretrainConfig, seconds: float, waited: str
    ) -> Cells:
        """What so many seconds a step are in images, in FLOPs and in MFU."""
        rate = train_flops(config) / seconds
        images = f"{config.batch_size / seconds:.0f}"
        return name, images, f"{rate / 1e9:.1f}", f"{rate / self.peak:.1%}", waited


def main(
    preset: Literal[
        "laptop", "S", "B", "L", "S-1-gpu", "S-8-gpus", "B-8-gpus"
    ] = "laptop",
    batch_size: int | None = None,
    num_steps: int = 50,
    workers: int = 2,
) -> None:
    """Prints a row for each part."""
    config = dataclasses.replace(PRESETS[preset][1].config, pca_start=False)
    if batch_size is not None:
        config = with_batch(config, batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(config, Path(scratch), workers)
        rows = [bench.data_alone(num_steps)]
        rows.append(bench.step_alone("step alone", config, num_steps))
        for name in OBJECTIVES:
            label = f"step alone, {name} only"
            rows.append(bench.step_alone(label, only(name, config), num_steps))
        rows.append(bench.together(num_steps))
    title = f"Pre-training, {preset}, batch {config.batch_size}"
    columns = ("part", "images/s", "GFLOP/s", "MFU", "waiting for data")
    print_table(f"{title}, {config.precision}", columns, rows)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
