"""Encodes a data set once, for any number of generators to be trained on.

    python experiments/extract_latents.py --tokenizer runs/pretrain --data data/scenes \
        --out runs/latents
    python experiments/extract_latents.py --tokenizer MiniMaxAI/VTP-Large-f16d64 \
        --data imagenet/train --out latents --config.dtype float16
    python experiments/extract_latents.py --out latents --verify
    python experiments/extract_latents.py --smoke

The tokenizer is a run, a folder, or a published one; data are folders of images, tars,
or prepared sets of TensorFlow Datasets (`PATH:SPLIT`). Latents are of each image and of
its mirror image (`--config.views`), in shards that are mapped into memory or, with
`--config.layout lightningdit`, in the folder that LightningDiT trains on. For
generators of text, `--config.captions` keeps captions too: take `--config.views
original` beside it where they name left and right.

The same command again continues where it was; no bit of a latent depends on batch,
devices or processes. Generators need the `tokenizer` beside the latents: by its exact
statistics they divide each channel, or all alike (`--config.one-scaling-factor`).
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import sys
import tempfile

import jax
import numpy as np
import tyro

from vtp_eqx.config import LatentsConfig, require
from vtp_eqx.conversion import small_models
from vtp_eqx.data.latents import check_checksums, LatentIndex
from vtp_eqx.evaluation.latent_statistics import DEVICE_IMAGES
from vtp_eqx.evaluation.prompts import read_class_names
from vtp_eqx.files import require_local_fields
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.batches import open_sources
from vtp_eqx.runs.captions import open_captions, save_words
from vtp_eqx.runs.command import exit_with_message, RUN_ERRORS
from vtp_eqx.runs.extract_latents import extract_latents
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.throughput import throttled_print
from vtp_eqx.scenes.render import render, SceneConfig, write_folders
from vtp_eqx.tokenizer import load, save


TOKENIZER = "tokenizer"  # its folder beside the latents


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Which tokenizer encodes what, and where the latents go."""

    tokenizer: str = ""
    """A run, a folder or file of ours or as published, or a name on the hub."""
    data: tuple[str, ...] = ()
    """Folders, tars or prepared sets (PATH:SPLIT)."""
    out: str = "runs/latents"
    config: LatentsConfig = dataclasses.field(default_factory=LatentsConfig)
    split: str = ""
    """Of prepared data sets that name none, such as 'train'."""
    classes: str = ""
    """A file of class names, a line each; by default those of the data."""
    workers: int = 8
    """Threads that read and decode images."""
    device_images: int = DEVICE_IMAGES
    """Images that a device is given at once."""
    devices: int | None = None
    distributed: bool = False
    """One of several processes, as the cluster's environment says."""
    verify: bool = False
    """Read all latents in the folder, compare their checksums, and end."""

    def __post_init__(self):
        require_local_fields(self)
        require(
            self.verify or bool(self.tokenizer and self.data),
            f"`tokenizer` ({self.tokenizer!r}) and `data` ({self.data}) must name what "
            "encodes and what is encoded: give both.",
        )


def extract(options: ExtractOptions) -> None:
    """Runs to the end, and says what the latents cost."""
    out = Path(options.out)
    if options.verify:
        index = LatentIndex.read(out)
        if index is None:
            raise ValueError(
                f"`out` ({out}) must have an index.json of latents: choose another one."
            )
        check_checksums(out, index)
        print(f"{len(index.shards)} shards in {out} are as they were written.")
        return
    if options.distributed:
        jax.distributed.initialize()
    source = open_sources(options.data, options.split)
    names = read_class_names(options.classes) if options.classes else ()
    tokenizer, words, encode = load(options.tokenizer), None, None
    if options.config.captions:
        words, encode = open_captions(tokenizer, options.tokenizer, source)
    tokenizer, index = extract_latents(
        options.config, tokenizer, source, out,
        mesh=data_mesh(options.devices), class_names=names,
        encode=encode, num_threads=options.workers, device_images=options.device_images,
        progress=throttled_print("images encoded by this process: {} of {}"),
    )  # fmt: skip
    if is_main_process():
        save(tokenizer, out / TOKENIZER)
        save_words(words, out)
        size = sum(size for record in index.shards for size, _ in record.files.values())
        print(
            f"{index.num_images:,} images ({index.num_skipped:,} unreadable), views "
            f"{', '.join(index.views)}: {size / 1e6:,.1f} MB of {index.dtype}, which "
            f"costs {index.rms_error:.2%} of a channel's deviation (rms).\n"
            f"Latents: {out} ({index.latents_hash})\nTokenizer: {out / TOKENIZER}"
        )


def smoke() -> None:
    """The latents of a few scenes in both layouts, twice, and their checksums."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folders(render(SceneConfig(), np.arange(48)), folder / "scenes")
        save(small_models()[0], folder / "tokenizer")
        for config in (
            LatentsConfig(dtype="uint8", shard_images=20),
            LatentsConfig(dtype="float16", layout="lightningdit"),
        ):
            options = ExtractOptions(
                tokenizer=str(folder / "tokenizer"), data=(str(folder / "scenes"),),
                out=str(folder / config.layout), config=config, workers=2, devices=1,
            )  # fmt: skip
            extract(options)
            extract(options)
            extract(dataclasses.replace(options, verify=True))


def main() -> None:
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        if sys.argv[1:] == ["--smoke"]:
            return smoke()
        extract(tyro.cli(ExtractOptions, description=__doc__))


if __name__ == "__main__":
    main()
