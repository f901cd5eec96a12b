"""Measures any tokenizer, or any generator's samples, on any images.

    python experiments/evaluate.py rfid --tokenizer DIR --data imagenet/val
    python experiments/evaluate.py zero-shot --tokenizer DIR --data imagenet/val \
        --classes names.txt
    python experiments/evaluate.py probe --tokenizer DIR --train imagenet/train \
        --data imagenet/val
    python experiments/evaluate.py neighbors --tokenizer DIR --train imagenet/train \
        --data imagenet/val
    python experiments/evaluate.py reference --data imagenet/train --size 256 \
        --file reference.npz
    python experiments/evaluate.py gfid --data samples --reference reference.npz \
        --num-samples 50000
    python experiments/evaluate.py --smoke

`--data` is a folder of images (class folders give labels), WebDataset tars (a folder of
them or a pattern such as `'val/{00000..00049}.tar'`), an `.npz` of images, or with
`--split` a data set of TensorFlow Datasets. Numbers go to `--out` with the card of what
they depend on; run again, a command continues where it was killed. Files that cannot be
read are left out, named and counted; `--num-samples` makes another count an error.
A distance is called FID only in the features of Inception (`--network inception-v3
--weights FILE`); those of the shipped network, which reads images of 32 pixels, give an
rFD-scenes and a gFD-scenes.
"""

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path
import sys
import tempfile
from typing import Annotated, Literal

import jax.random as jr
import numpy as np
from PIL import Image
from rich.console import Console
import tyro

from vtp_eqx.config import TextConfig, TokenizerConfig, VIT_FEMTO
from vtp_eqx.data.captions import CaptionTokenizer, train_tokenizer
from vtp_eqx.data.clip_text import clip_tokenizer
from vtp_eqx.data.crops import CenterCrop, Crop, ShortSideCrop, Squash
from vtp_eqx.data.prompt_templates import IMAGENET_TEMPLATES
from vtp_eqx.data.scenes import class_names, render, SceneConfig
from vtp_eqx.data.sources import open_source
from vtp_eqx.evaluation import card, display, frechet, protocols
from vtp_eqx.evaluation.networks import feature_network, lpips
from vtp_eqx.evaluation.probe import probe as probe_protocol, ProbeFeatures
from vtp_eqx.evaluation.reference import (
    make_reference,
    read_reference,
    write_reference,
)
from vtp_eqx.evaluation.samples import judge_samples, read_record
from vtp_eqx.evaluation.survey import Images, Workplace
from vtp_eqx.evaluation.sweep import SweepConfig
from vtp_eqx.mesh import data_mesh
from vtp_eqx.tokenizer import load, save, Tokenizer


NetworkName = Literal["scene-network", "inception-v3", "dinov2"]
SWEEP = SweepConfig()
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    data: Path
    """The images that are judged: a folder, tars, an .npz, or a prepared data set."""
    split: str = ""
    """Of a prepared data set, such as 'validation'."""
    limit: int | None = None
    """Judge this many images, evenly spread; by default all."""
    num_samples: int | None = None
    """Stop with an error where another number of images could be read."""
    out: Path = Path("runs/evaluate")
    """Where the numbers, their card, and what they are continued from go."""
    batch_size: int = 64
    threads: int = 8
    devices: int | None = None
    """How many to use; by default all."""

    def images(self, crop: Crop) -> Images:
        source = open_source(self.data, self.split)
        if ignored := getattr(source, "ignored", None):
            console.print(display.listed("files are no images by name", ignored))
        if damaged := getattr(source, "damaged", None):
            lines = [f"{name} ({what})" for name, what in damaged.items()]
            console.print(display.listed("tars are damaged", lines), markup=False)
        return Images(source=source, crop=crop, limit=self.limit)


Given = Annotated[Options, tyro.conf.arg(name="")]


def measure(options: Options, run: Callable[[Workplace], dict[str, float]], name: str):
    """Runs one protocol with its progress, and shows its numbers."""
    frechet.self_test()
    with display.progress(console) as report:
        place = Workplace(
            folder=options.out,
            batch_size=options.batch_size,
            num_threads=options.threads,
            mesh=data_mesh(options.devices),
            report=report,
        )
        numbers = run(place)
    path = options.out / f"card_{name}.json"
    console.print(display.numbers_table(numbers, card.read(path)[1]))
    skipped = json.loads(path.read_text())["skipped"]
    if skipped:
        lines = [f"{name} ({reason})" for name, reason in skipped.items()]
        console.print(display.listed("files could not be read", lines), markup=False)
    console.print(f"Card: {path}")


def reconstruction(
    options: Given,
    tokenizer: Path,
    network: NetworkName = "scene-network",
    weights: Path | None = None,
    lpips_files: tuple[Path, Path] | None = None,
) -> None:
    """PSNR, SSIM and rFID of a tokenizer's reconstructions (ADM's center crop).

    `weights` is the network's published file; with `lpips_files`, those of VGG16 and of
    its channel weights, LPIPS too.
    """
    judged = load(tokenizer)
    images = options.images(CenterCrop(judged.config.image_size))
    measure(
        options,
        lambda place: protocols.reconstruction(
            judged, images, feature_network(network, weights), place,
            perceptual=None if lpips_files is None else lpips(*lpips_files),
            num_samples=options.num_samples,
        ),
        "reconstruction",
    )  # fmt: skip


def zero_shot(
    options: Given,
    tokenizer: Path,
    classes: Path,
    words: Path | None = None,
    templates: Path | None = None,
) -> None:
    """Accuracy of text classes, a name a line.

    `words` is the vocabulary that the text tower was trained with, CLIP's by default;
    `templates` has one a line, with {} for the name: by default CLIP's 80.
    """
    judged = load(tokenizer)
    images = options.images(Squash(judged.config.image_size))
    lines = lambda path: [line for line in path.read_text().splitlines() if line]
    measure(
        options,
        lambda place: protocols.zero_shot(
            judged,
            clip_tokenizer() if words is None else CaptionTokenizer.load(words),
            lines(classes),
            IMAGENET_TEMPLATES if templates is None else lines(templates),
            images, place, num_samples=options.num_samples,
        ),
        "zero_shot",
    )  # fmt: skip


def probe(
    options: Given,
    tokenizer: Path,
    train: Path,
    train_split: str = "",
    short: int | None = None,
    size: int | None = None,
    reads: ProbeFeatures = "blocks",
    config: SweepConfig = SWEEP,
) -> None:
    """Linear probe by DINOv2's sweep: of `blocks`, or of the `last` or the `latents`.

    Images are cropped to `size` after their short side became `short`: 224 after 256
    for a tokenizer of 256, its own size uncropped for another.
    """
    judged = load(tokenizer)
    crop = probe_crop(judged, short, size)
    known = Images(source=open_source(train, train_split), crop=crop)
    measure(
        options,
        lambda place: probe_protocol(
            judged, known, options.images(crop), place, reads=reads, config=config,
            num_samples=options.num_samples,
        ),
        "probe",
    )  # fmt: skip


def neighbors(
    options: Given,
    tokenizer: Path,
    train: Path,
    train_split: str = "",
    short: int | None = None,
    size: int | None = None,
    counts: tuple[int, ...] = (10, 20, 100, 200),
) -> None:
    """Accuracy of the nearest training images; crops as in `probe`."""
    judged = load(tokenizer)
    crop = probe_crop(judged, short, size)
    known = Images(source=open_source(train, train_split), crop=crop)
    measure(
        options,
        lambda place: protocols.neighbors(
            judged, known, options.images(crop), place, counts=counts,
            num_samples=options.num_samples,
        ),
        "neighbors",
    )  # fmt: skip


def gfid(
    options: Given,
    reference: Path,
    size: int,
    origin: str = "",
    network: NetworkName = "scene-network",
    weights: Path | None = None,
    reference_network: NetworkName | None = None,
    reference_count: int | None = None,
) -> None:
    """gFID of samples of `size` pixels, and precision and recall where it can.

    Needs `--num-samples`, and beside the samples the `samples.json` that says what made
    them, or their `origin` in words. What the reference's file does not tell about
    itself, `reference_network` and `reference_count` do.
    """
    if options.num_samples is None:
        raise SystemExit(
            "A gFID depends on the number of samples; got none: say it (--num-samples)."
        )
    count = options.num_samples
    real = read_reference(reference, network=reference_network, count=reference_count)
    record = origin or read_record(options.data)
    images = options.images(CenterCrop(size))
    measure(
        options,
        lambda place: judge_samples(
            images,
            record,
            feature_network(network, weights),
            real,
            place,
            num_samples=count,
        ),
        "generation",
    )


def reference(
    options: Given,
    file: Path,
    size: int,
    network: NetworkName = "scene-network",
    weights: Path | None = None,
    keep_features: bool = False,
) -> None:
    """Writes the statistics of real images (ADM's center crop) to an .npz."""
    images = options.images(CenterCrop(size))
    with display.progress(console) as report:
        place = Workplace(
            folder=options.out, batch_size=options.batch_size,
            num_threads=options.threads, mesh=data_mesh(options.devices), report=report,
        )  # fmt: skip
        made = make_reference(
            images, feature_network(network, weights), place,
            keep_features=keep_features, num_samples=options.num_samples,
        )  # fmt: skip
    write_reference(file, made)
    console.print(f"{made.moments.count} images, {network}: {file}")


def probe_crop(tokenizer: Tokenizer, short: int | None, size: int | None) -> Crop:
    """The crop of probes and neighbors: 224 out of 256 for the published tokenizers."""
    whole = tokenizer.config.image_size
    size = size or (224 if whole == 256 else whole)
    return ShortSideCrop(short or max(whole, size), size)


def smoke() -> None:
    """Runs every command on a few scenes with an untrained tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch), Path(scratch) / "out"
        train, data = write_scenes(folder)
        text = TextConfig(context=16, vocabulary=400, width=16, depth=1, num_heads=1)
        config = TokenizerConfig(
            encoder=VIT_FEMTO, decoder=VIT_FEMTO, text=text, image_size=32, patch_size=8
        )
        tokenizer, words = folder / "tokenizer", folder / "words.json"
        classes, templates = folder / "classes.txt", folder / "templates.txt"
        save(Tokenizer(config, key=jr.key(0)), tokenizer)
        train_tokenizer(class_names(), text.vocabulary).save(words)
        classes.write_text("\n".join(sorted(class_names())))
        templates.write_text("a photo of a {}.\na drawing of the {}.")
        options = Options(data=data, out=out, batch_size=16, devices=1)
        reconstruction(options, tokenizer)
        zero_shot(options, tokenizer, classes, words, templates)
        sweep = SweepConfig(batch_size=32, num_epochs=2, epoch_steps=3)
        probe(options, tokenizer, train, config=sweep)
        neighbors(options, tokenizer, train, counts=(1, 5))
        real = folder / "reference.npz"
        reference(
            dataclasses.replace(options, data=train), real, 32, keep_features=True
        )
        gfid(dataclasses.replace(options, num_samples=48), real, 32, origin="scenes")


def write_scenes(folder: Path) -> list[Path]:
    """Two folders of scenes in class folders, training and validation."""
    config, names = SceneConfig(), class_names()
    for part, rows in (
        ("train", config.train_indices[:96]),
        ("validation", config.validation_indices[:48]),
    ):
        scenes = render(config, np.asarray(rows))
        for row, (image, label) in enumerate(
            zip(scenes.image, scenes.label, strict=True)
        ):
            path = folder / part / names[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return [folder / "train", folder / "validation"]


COMMANDS = {
    "rfid": reconstruction,
    "reconstruction": reconstruction,
    "zero-shot": zero_shot,
    "probe": probe,
    "neighbors": neighbors,
    "gfid": gfid,
    "reference": reference,
}

if __name__ == "__main__":
    if sys.argv[1:] == ["--smoke"]:
        smoke()
    else:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, description=__doc__)
