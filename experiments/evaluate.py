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
import functools
import json
from pathlib import Path
import sys
import tempfile
from typing import Annotated, Any, Literal

import jax.random as jr
from rich.console import Console
import tyro

from vtp_eqx.config import Precision, TextConfig, TokenizerConfig, VIT_FEMTO
from vtp_eqx.data.crops import CenterCrop, Crop, Resize, ResizeCenterCrop
from vtp_eqx.data.sources import open_source
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.data.text.clip_bpe import clip_tokenizer
from vtp_eqx.data.text.prompt_templates import IMAGENET_TEMPLATES
from vtp_eqx.evaluation import card, frechet, protocols
from vtp_eqx.evaluation.console import list_names, numbers_table, progress
from vtp_eqx.evaluation.extract import ExtractConfig, Images, Report
from vtp_eqx.evaluation.linear_probe import probe as probe_protocol, ProbeFeatures
from vtp_eqx.evaluation.networks import feature_network, lpips
from vtp_eqx.evaluation.probe_sweep import SweepConfig
from vtp_eqx.evaluation.reference import (
    add_image_features,
    make_reference,
    read_reference,
    write_reference,
)
from vtp_eqx.evaluation.sample_record import read_sample_record
from vtp_eqx.evaluation.sample_sets import (
    evaluate_sample_sets,
    sample_table,
    SampleSet,
    skipped_files,
)
from vtp_eqx.mesh import data_mesh
from vtp_eqx.scenes.render import class_names, render, SceneConfig, write_folders
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
            console.print(list_names("files are no images by name", ignored))
        if damaged := getattr(source, "damaged", None):
            lines = [f"{name} ({what})" for name, what in damaged.items()]
            console.print(list_names("tars are damaged", lines), markup=False)
        return Images(source=source, crop=crop, limit=self.limit)

    def place(self, report: Report) -> ExtractConfig:
        return ExtractConfig(
            folder=self.out,
            batch_size=self.batch_size,
            num_threads=self.threads,
            mesh=data_mesh(self.devices),
            report=report,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Options):
    """What every command that judges a tokenizer takes."""

    tokenizer: str
    """A folder or file, ours or published, or a name on the hub."""
    precision: Precision = "float32"
    """What it computes in; the networks and sums that judge it stay float32."""

    @functools.cached_property
    def judged(self) -> Tokenizer:
        return load(self.tokenizer).at_precision(self.precision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning(Judging):
    """What every command takes that learns from training images."""

    train: Path
    """The images whose labels are known: as `data`."""
    train_split: str = ""
    short: int | None = None
    """What the short side of an image becomes, before its middle is cut out."""
    size: int | None = None
    """The side of that middle: 224 out of 256 for a tokenizer of 256, else all."""

    @property
    def crop(self) -> Crop:
        whole = self.judged.config.image_size
        size = self.size or (224 if whole == 256 else whole)
        return ResizeCenterCrop(self.short or max(whole, size), size)

    def known(self) -> Images:
        return Images(source=open_source(self.train, self.train_split), crop=self.crop)


Given = Annotated[Options, tyro.conf.arg(name="")]
Judged = Annotated[Judging, tyro.conf.arg(name="")]
Learned = Annotated[Learning, tyro.conf.arg(name="")]


def measure(
    options: Options, run: Callable[[ExtractConfig], dict[str, float]], name: str
):
    """Runs one protocol with its progress, and shows its numbers."""
    frechet.self_test()
    with progress(console) as report:
        numbers = run(options.place(report))
    path = options.out / f"card_{name}.json"
    console.print(numbers_table(numbers, card.read(path)[1]))
    skipped = json.loads(path.read_text())["skipped"]
    if skipped:
        lines = [f"{name} ({reason})" for name, reason in skipped.items()]
        console.print(list_names("files could not be read", lines), markup=False)
    console.print(f"Card: {path}")


def reconstruction(
    options: Judged,
    network: NetworkName = "scene-network",
    weights: Path | None = None,
    lpips_files: tuple[Path, Path] | None = None,
) -> None:
    """PSNR, SSIM and rFID of a tokenizer's reconstructions (ADM's center crop).

    `weights` is the network's published file; with `lpips_files`, those of VGG16 and of
    its channel weights, LPIPS too.
    """
    images = options.images(CenterCrop(options.judged.config.image_size))
    measure(
        options,
        lambda place: protocols.reconstruction(
            options.judged, images, feature_network(network, weights), place,
            perceptual=None if lpips_files is None else lpips(*lpips_files),
            num_samples=options.num_samples,
        ),
        "reconstruction",
    )  # fmt: skip


def zero_shot(
    options: Judged,
    classes: Path,
    words: Path | None = None,
    templates: Path | None = None,
) -> None:
    """Accuracy of text classes, a name a line.

    `words` is the vocabulary that the text tower was trained with, CLIP's by default;
    `templates` has one a line, with {} for the name: by default CLIP's 80.
    """
    text = options.judged.config.text
    if words is None and text is not None and text.tokenizer == "learned":
        raise SystemExit(
            "`words` (None) must be the vocabulary that this text tower was trained "
            "with: name the words.json of its run (--words)."
        )
    images = options.images(Resize(options.judged.config.image_size))
    lines = lambda path: [line for line in path.read_text().splitlines() if line]
    measure(
        options,
        lambda place: protocols.zero_shot(
            options.judged,
            clip_tokenizer() if words is None else CaptionTokenizer.load(words),
            lines(classes),
            IMAGENET_TEMPLATES if templates is None else lines(templates),
            images, place, num_samples=options.num_samples,
        ),
        "zero_shot",
    )  # fmt: skip


def probe(
    options: Learned, reads: ProbeFeatures = "blocks", config: SweepConfig = SWEEP
) -> None:
    """Linear probe by DINOv2's sweep: of `blocks`, the `last` one, or the `latents`."""
    measure(
        options,
        lambda place: probe_protocol(
            options.judged, options.known(), options.images(options.crop), place,
            reads=reads, config=config, num_samples=options.num_samples,
        ),
        "probe",
    )  # fmt: skip


def neighbors(options: Learned, counts: tuple[int, ...] = (10, 20, 100, 200)) -> None:
    """Accuracy of the votes of the nearest training images."""
    measure(
        options,
        lambda place: protocols.neighbors(
            options.judged, options.known(), options.images(options.crop), place,
            counts=counts, num_samples=options.num_samples,
        ),
        "neighbors",
    )  # fmt: skip


def gfid(
    options: Given,
    reference: Path,
    size: int,
    beside: tuple[Path, ...] = (),
    origin: str = "",
    network: NetworkName = "scene-network",
    weights: Path | None = None,
    reference_network: NetworkName | None = None,
    reference_count: int | None = None,
    dinov2: tuple[Path, Path] | None = None,
) -> None:
    """gFID of samples of `size` pixels, and whatever else reference and network give.

    Needs `--num-samples`, and beside the samples the `samples.json` that says what made
    them, or their `origin` in words. `beside` are more folders of samples, guided ones
    say, for more columns. What the reference's file does not tell about itself,
    `reference_network` and `reference_count` do; ADM's are known. With `dinov2`, the
    weights and a reference made with them, there is an FD-DINOv2 too.
    """
    if options.num_samples is None:
        raise SystemExit(
            "A gFID depends on the number of samples; got none: say it (--num-samples)."
        )
    frechet.self_test()
    real = read_reference(reference, network=reference_network, count=reference_count)
    crop, judge = CenterCrop(size), feature_network(network, weights)
    sets = [
        SampleSet(
            images=dataclasses.replace(options, data=data).images(crop),
            record=origin or read_sample_record(data),
            name="" if data == options.data else data.name,
        )
        for data in (options.data, *beside)
    ]
    with progress(console) as report:
        place = options.place(report)
        measures = {"": (judge, add_image_features(real, reference, judge, place))}
        if dinov2 is not None:
            other = feature_network("dinov2", dinov2[0])
            measures["dinov2"] = (other, read_reference(dinov2[1]))
        results = evaluate_sample_sets(
            sets, measures, place, num_samples=options.num_samples
        )
    console.print(sample_table(sets, results, place))
    if skipped := skipped_files(sets, place):
        console.print(list_names("files could not be read", skipped), markup=False)
    console.print(f"Cards: card_generation.json in {options.out} and its folders")


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
    with progress(console) as report:
        made = make_reference(
            images, feature_network(network, weights), options.place(report),
            keep_features=keep_features, num_samples=options.num_samples,
        )  # fmt: skip
    write_reference(file, made)
    console.print(f"{made.moments.count} images, {network}: {file}")


def smoke() -> None:
    """Runs every command on a few scenes with an untrained tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch), Path(scratch) / "out"
        train, data, scenes = folder / "train", folder / "validation", SceneConfig()
        write_folders(render(scenes, scenes.train_indices[:96]), train)
        write_folders(render(scenes, scenes.validation_indices[:48]), data)
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
        few: dict[str, Any] = dict(out=out, batch_size=16, devices=1)
        of: dict[str, Any] = dict(tokenizer=str(tokenizer), data=data, **few)
        reconstruction(Judging(**of))
        zero_shot(Judging(precision="bfloat16", **of), classes, words, templates)
        sweep = SweepConfig(batch_size=32, num_epochs=2, epoch_steps=3)
        probe(Learning(train=train, **of), config=sweep)
        neighbors(Learning(train=train, **of), counts=(1, 5))
        real = folder / "reference.npz"
        reference(Options(data=train, **few), real, 32, keep_features=True)
        gfid(Options(data=data, num_samples=48, **few), real, 32, origin="scenes")


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
    try:
        if sys.argv[1:] == ["--smoke"]:
            smoke()
        else:
            tyro.extras.subcommand_cli_from_dict(COMMANDS, description=__doc__)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{error}")
