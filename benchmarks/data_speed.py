"""How fast the data pipeline alone makes batches: tars of JPEGs in, squares out.

python -m benchmarks.data_speed

Pictures are smooth noise, about as many bytes as photographs of their size. Writing the
tars and the index is not counted; they are in the page cache.
"""

import io
import os
from pathlib import Path
import tarfile
import tempfile
import time
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks.table import print_table
from vtp_eqx.data import images
from vtp_eqx.data.mixture import make_sampler
from vtp_eqx.data.prefetch import ExampleReader, Prefetcher
from vtp_eqx.data.tar_writing import add_example
from vtp_eqx.data.tars import TarSource
from vtp_eqx.data.text.caption_bpe import train_tokenizer


SHARDS, PER_SHARD = 4, 256
BATCH, SIZE, NUM_BATCHES = 64, 256, 12
SHAPES = ((256, 256), (384, 512))  # as img2dataset shrinks them, and as cameras do
CAPTION = "a small red ring at the left of a striped blue background"


def write_tars(folder: Path, shape: tuple[int, int]) -> float:
    """Writes captioned JPEGs, and returns the kilobytes of one on average."""
    folder.mkdir()
    rng, sizes = np.random.default_rng(0), []
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in range(PER_SHARD):
                jpeg = picture(rng, shape)
                sizes.append(len(jpeg))
                files = {"jpg": jpeg, "txt": CAPTION.encode()}
                add_example(tar, f"{shard:05d}{row:04d}", files)
    return float(np.mean(sizes)) / 1000


def picture(rng: np.random.Generator, shape: tuple[int, int]) -> bytes:
    """A JPEG of smooth colors with some grain."""
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(
        (shape[1], shape[0]), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 9, (*shape, 1))
    pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()


def batch_seconds(
    reader: ExampleReader, num_threads: int, num_batches: int = NUM_BATCHES
) -> float:
    """Seconds of a batch that nobody uses, after a few that were read ahead."""
    with Prefetcher(reader, num_workers=num_threads) as stream:
        for _ in range(5):
            next(stream)
        started = time.perf_counter()
        for _ in range(num_batches):
            next(stream)
        return (time.perf_counter() - started) / num_batches


def main() -> None:
    words = train_tokenizer([CAPTION], 300)
    decoders = {"Pillow": lambda: None}
    if images._simplejpeg() is not None:
        decoders["simplejpeg"] = images._simplejpeg
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in SHAPES:
            folder = Path(scratch) / f"{shape[0]}"
            kilobytes = write_tars(folder, shape)
            started = time.perf_counter()
            source = TarSource(folder)
            indexed = 2 * len(source) / (time.perf_counter() - started)
            reader = ExampleReader(
                source=source,
                sampler=make_sampler(source, BATCH, seed=0),
                size=SIZE,
                encode=lambda texts: words.encode(texts, 32, truncate=True),
            )
            for name, decoder in decoders.items():
                with mock.patch.object(images, "_simplejpeg", decoder):
                    seconds = [batch_seconds(reader, count) for count in (1, 2)]
                cells = [f"{BATCH / each:.0f}" for each in seconds]
                label = f"{shape[1]} x {shape[0]}, {kilobytes:.0f} kB, {name}"
                rows.append((label, *cells, f"{indexed:.0f}"))
    columns = ("JPEG", "images/s, 1 thread", "2 threads", "members indexed/s")
    cores = len(os.sched_getaffinity(0))  # more threads than these gain nothing
    title = f"Data pipeline on {cores} cores, batch {BATCH}, squares of {SIZE}"
    print_table(title, columns, rows)


if __name__ == "__main__":
    main()
