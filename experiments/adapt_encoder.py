"""Makes a tokenizer of a frozen encoder: its features become the latents.

    python experiments/adapt_encoder.py --tokenizer runs/pretrain --data data/scenes \
        --out runs/rae
    python experiments/adapt_encoder.py --adapter.kind linear \
        --tokenizer MiniMaxAI/VTP-Large-f16d64 --data imagenet/train --out runs/fae
    python experiments/adapt_encoder.py --smoke

With `--adapter.kind identity` they are the features as they are (RAE), with `linear` as
many numbers as the latents of the tokenizer had, from which a linear map reconstructs
most of the features (FAE); `--adapter.readout-layers` and `--adapter.readout` say of
which blocks (RAEv2, DINO-Tok). The folder is a tokenizer with the statistics of its
latents. Its decoder has learned nothing: finetune_decoder.py trains it (preset
`RAE-latents`), and extract_latents.py and train_generator.py follow, as after a
pre-training.
"""

import vtp_eqx.interrupts  # noqa: F401 - Ctrl-C while libraries load

import dataclasses
from pathlib import Path
import sys
import tempfile

import jax.numpy as jnp
import numpy as np
import tyro

from vtp_eqx.config import require
from vtp_eqx.conversion import small_models
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.files import require_local_fields
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.batches import open_sources, random_examples
from vtp_eqx.runs.command import exit_with_message, RUN_ERRORS
from vtp_eqx.runs.throughput import throttled_print
from vtp_eqx.scenes.render import render, SceneConfig, write_folders
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.adapter import adapt, AdapterConfig


IDENTITY = AdapterConfig(kind="identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Whose encoder, on which images, and where the tokenizer goes."""

    adapter: AdapterConfig = IDENTITY
    tokenizer: str = ""
    """A run, a folder or file of ours or as published, or a name on the hub."""
    data: tuple[str, ...] = ()
    """Folders, tars or prepared sets (PATH:SPLIT)."""
    out: str = "runs/adapted"
    split: str = ""
    """Of prepared data sets that name none, such as 'train'."""
    images: int = 2048
    """How many images principal components are of, drawn at random."""
    latent_images: int = 2_000_000
    """Cap on the images that latent statistics are measured on, evenly spread."""
    workers: int = 8
    devices: int | None = None

    def __post_init__(self):
        require_local_fields(self)
        require(
            bool(self.tokenizer and self.data),
            f"`tokenizer` ({self.tokenizer!r}) and `data` ({self.data}) must name "
            "whose encoder is taken and what it sees: give both.",
        )


def run(options: AdaptOptions) -> None:
    """Solves the adapter, measures its latents, and saves the tokenizer."""
    tokenizer = load(options.tokenizer)
    source = open_sources(options.data, options.split)
    size = tokenizer.config.image_size
    images = random_examples(source, options.images, size, seed=0).image
    adapted, _ = measure_latents(
        adapt(tokenizer, options.adapter, images), source,
        mesh=data_mesh(options.devices), max_images=options.latent_images,
        num_threads=options.workers,
        progress=throttled_print("latents measured: {} of {}"),
    )  # fmt: skip
    save(adapted, options.out)
    print(f"Tokenizer, of {adapted.config.latent_width} channels: {options.out}")


def smoke() -> None:
    """Both kinds, of an untrained encoder and a few scenes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folders(render(SceneConfig(), np.arange(48)), folder / "scenes")
        save(small_models()[0], folder / "tokenizer")
        for adapter in (IDENTITY, AdapterConfig(kind="linear")):
            options = AdaptOptions(
                adapter=adapter, tokenizer=str(folder / "tokenizer"),
                data=(str(folder / "scenes"),), out=str(folder / adapter.kind),
                devices=1, workers=2,
            )  # fmt: skip
            run(options)
            latents = load(options.out).encode(jnp.zeros((32, 32, 3)))
            assert latents.shape[-1] == load(options.out).config.latent_width


def main() -> None:
    with exit_with_message(ValueError, ImportError, *RUN_ERRORS):
        if sys.argv[1:] == ["--smoke"]:
            return smoke()
        run(tyro.cli(AdaptOptions, description=__doc__))


if __name__ == "__main__":
    main()
