"""How fast a pre-training is fed and how fast it learns, alone and together.

python -m benchmarks.pretrain_speed
python -m benchmarks.pretrain_speed --preset B --batch-size 512  # an accelerator

Scenes in tars are read, decoded and cut as in any run. A step alone sees the same batch
again and again, with all objectives and with each; together they are a run, log and
checkpoint included, that says itself how long it waited for data. MFU is the FLOPs of a
step by formula, backward passes included, as a share of the peak.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import tempfile

import numpy as np

from benchmarks.data_speed import batch_seconds
from benchmarks.table import median_seconds, print_table
from benchmarks.works import OBJECTIVES, only
from experiments import make_scenes_tars
from experiments.pretrain import PRESETS
from vtp_eqx.config import PretrainConfig
from vtp_eqx.config.presets import with_batch
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.data.tars import TarSource
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.runs.batches import Batches, caption_encoder, text_tokenizer_for
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
        """Batches that nobody uses."""
        seconds = batch_seconds(self.feed.reader, self.workers, num_steps)
        rate = self.config.batch_size / seconds
        return f"data alone, {self.workers} threads", f"{rate:.0f}", "", "", ""

    def step_alone(self, name: str, config: PretrainConfig, num_steps: int) -> Cells:
        """The same batch, on the device."""
        state, step = init_pretraining(config, *self.given)
        held, batch = [state], shard_batch(next(self.feed(0)), self.mesh)
        batch = CaptionedBatch(
            batch.image, None if text_config(config) is None else batch.caption
        )

        def advance():
            held[0], metrics = step(held[0], batch)
            return metrics

        seconds = median_seconds(advance, repeats=num_steps)
        flops = train_flops(config)
        rates = (config.batch_size, flops / 1e9, flops / self.peak)
        images, gigaflops, mfu = (rate / seconds for rate in rates)
        return name, f"{images:.0f}", f"{gigaflops:.1f}", f"{mfu:.1%}", ""

    def together(self, num_steps: int) -> Cells:
        """A run of its own, of which the second half is measured."""
        config, flops = self.config, train_flops(self.config)
        state, step = init_pretraining(config, *self.given)
        cost = StepCost(images=config.batch_size, flops=flops, peak=self.peak)
        place = self.folder / "run"
        run_training(
            state, step, self.feed, num_steps=2 * num_steps, mesh=self.mesh,
            folder=place, log_every=num_steps, save_every=2 * num_steps,
            callbacks=Callbacks(cost=cost),
        )  # fmt: skip
        last = json.loads((place / "metrics.jsonl").read_text().splitlines()[-1])
        rate = last["images_per_second"]
        gigaflops = flops * rate / config.batch_size / 1e9
        return (
            "both: a run",
            f"{rate:.0f}",
            f"{gigaflops:.1f}",
            f"{last['mfu']:.1%}",
            f"{last['data_wait']:.1%}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="laptop")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    _, preset = PRESETS[options.preset]
    config = dataclasses.replace(preset.config, pca_start=False)
    if options.batch_size:
        config = with_batch(config, options.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(config, Path(scratch), options.workers)
        rows = [bench.data_alone(options.num_steps)]
        rows.append(bench.step_alone("step alone", config, options.num_steps))
        for name in OBJECTIVES:
            label = f"step alone, {name} only"
            rows.append(bench.step_alone(label, only(name, config), options.num_steps))
        rows.append(bench.together(options.num_steps))
    title = f"Pre-training, {options.preset}, batch {config.batch_size}"
    columns = ("part", "images/s", "GFLOP/s", "MFU", "waiting for data")
    print_table(f"{title}, {config.precision}", columns, rows)


if __name__ == "__main__":
    main()
