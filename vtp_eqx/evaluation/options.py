"""Command-line options of the evaluations, and their terminal output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
from pathlib import Path
import sys
from typing import Annotated, Literal, TypeVar

import numpy as np
from rich.console import Console
import tyro

from vtp_eqx.config import Precision, require, TextConfig
from vtp_eqx.data.crops import CenterCrop, Crop, ResizeCenterCrop
from vtp_eqx.data.loader import Source
from vtp_eqx.data.skipped import Skipped, skipped_of
from vtp_eqx.data.sources import open_source
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer
from vtp_eqx.data.text.clip_bpe import clip_tokenizer
from vtp_eqx.data.text.prompt_templates import IMAGENET_TEMPLATES
from vtp_eqx.evaluation import card, frechet
from vtp_eqx.evaluation.console import numbers_table, progress
from vtp_eqx.evaluation.extract import ExtractConfig
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.linear_probe import ProbeFeatures
from vtp_eqx.evaluation.networks import (
    feature_network,
    FeatureNetwork,
    lpips,
    NetworkName,
    PerceptualNetwork,
)
from vtp_eqx.evaluation.probe_sweep import SweepConfig
from vtp_eqx.evaluation.prompts import (
    check_class_names,
    describe_classes,
    read_class_names,
    read_templates,
)
from vtp_eqx.evaluation.reference import add_image_features, read_reference, Reference
from vtp_eqx.evaluation.sample_record import OWN_FILES, read_sample_record
from vtp_eqx.evaluation.samples import SampleSet
from vtp_eqx.evaluation.zero_shot import TextIds
from vtp_eqx.files import require_local_fields
from vtp_eqx.mesh import data_mesh


T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]  # options without a prefix
console = Console(width=None if sys.stdout.isatty() else 120)
SWEEP = SweepConfig()


def opened(path: Path, split: str) -> Source:
    """The images at `path`; what of them is left out is named in the terminal."""
    source = open_source(path, split)
    for skipped in skipped_of(source):
        if (missed := skipped.without(OWN_FILES)).count:
            console.print(f"{path}: {missed}", markup=False, soft_wrap=True)
    return source


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of every command."""

    data: Path
    """The images to be evaluated: a folder, tars, an .npz, or a prepared data set."""
    split: str = ""
    """Of a prepared data set, such as 'validation'."""
    limit: int | None = None
    """Evaluate this many images, evenly spread; by default all."""
    num_samples: int | None = None
    """Stop with an error where another number of images could be read."""
    out: Path = Path("runs/evaluate")
    """Folder of numbers, their card, and features by which a killed run continues."""
    batch_size: int = 64
    threads: int = 8
    devices: int | None = None
    """How many to use; by default all."""

    def __post_init__(self):
        require_local_fields(self, words=("origin",))

    def images(self, crop: Crop) -> Images:
        """The images of `data`; what is left out is named in the terminal."""
        return self.images_of(opened(self.data, self.split), crop)

    def images_of(self, source: Source, crop: Crop) -> Images:
        """As many images of a source as were asked for."""
        return Images(
            source=source, crop=crop, limit=self.limit, num_samples=self.num_samples
        )

    @contextlib.contextmanager
    def place(self) -> Iterator[ExtractConfig]:
        """Where and how features are extracted, with the progress in the terminal."""
        with progress(console) as report:
            yield ExtractConfig(
                folder=self.out,
                batch_size=self.batch_size,
                num_threads=self.threads,
                mesh=data_mesh(self.devices),
                report=report,
            )

    def run(
        self, name: str, protocol: Callable[[ExtractConfig], dict[str, float]]
    ) -> None:
        """Runs a protocol with its progress, and shows its numbers and their card."""
        frechet.self_test()
        with self.place() as place:
            numbers = protocol(place)
        show_numbers([("value", numbers)], [self.out / f"card_{name}.json"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions(EvaluationOptions):
    """Options of commands that measure distances between features."""

    network: NetworkName = "scene-network"
    """The feature network."""
    weights: Path | None = None
    """Its published file; the scene network has its own."""

    @functools.cached_property
    def feature_network(self) -> FeatureNetwork:
        """The network, read when it is first asked for."""
        return feature_network(self.network, self.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions(EvaluationOptions):
    """Options of commands that evaluate a tokenizer."""

    tokenizer: str
    """A folder or file, ours or published, or a name on the hub."""
    precision: Precision = "float32"
    """What it computes in; the networks and sums that evaluate it stay float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(NetworkOptions, TokenizerOptions):
    """Options of `rfid`."""

    lpips_files: tuple[Path, Path] | None = None
    """The published files of VGG16 and of its channel weights, for LPIPS too."""

    def perceptual(self) -> PerceptualNetwork | None:
        """LPIPS, where its files are given."""
        return None if self.lpips_files is None else lpips(*self.lpips_files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(TokenizerOptions):
    """Options of `zero-shot`."""

    classes: Path
    """The names of the classes, one a line, in the order of labels."""
    words: Path | None = None
    """The vocabulary that the text tower was trained with, CLIP's by default."""
    templates: Path | None = None
    """One a line, with {} for the name: by default CLIP's 80."""

    def prompts(
        self, text: TextConfig | None
    ) -> tuple[TextIds, Sequence[str], Sequence[str]]:
        """The text tokenizer of this tower, the names and the templates."""
        require(
            self.words is not None or text is None or text.tokenizer != "learned",
            "`words` (None) must be the vocabulary that this text tower was trained "
            "with: name the words.json of its run (--words).",
        )
        words = CaptionTokenizer.load(self.words) if self.words else clip_tokenizer()
        templates = IMAGENET_TEMPLATES
        if self.templates is not None:
            templates = read_templates(self.templates)
        return words, read_class_names(self.classes), templates

    def show_classes(self, names: Sequence[str], images: Images) -> None:
        """Prints which names are the first and the last class of the images."""
        folders = getattr(images.source, "class_names", ())
        check_class_names(names, np.zeros(0, np.int64), folders)  # no label seen yet
        console.print(describe_classes(names, folders), markup=False, highlight=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedOptions(TokenizerOptions):
    """Options of commands that fit something to training images."""

    train: Path
    """The images whose labels are known: as `data`."""
    train_split: str = ""
    short: int | None = None
    """What the short side of an image becomes, before its middle is cut out."""
    size: int | None = None
    """The side of that middle: 224 out of 256 for a tokenizer of 256, else all."""

    def train_and_test(self, image_size: int) -> tuple[Images, Images]:
        """The images of `train` and of `data`, for a tokenizer of `image_size`."""
        size = self.size or (224 if image_size == 256 else image_size)
        crop = ResizeCenterCrop(self.short or max(image_size, size), size)
        source = opened(self.train, self.train_split)
        return Images(source=source, crop=crop), self.images(crop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions(TrainedOptions):
    """Options of `probe`."""

    reads: ProbeFeatures = "blocks"
    """The features: of the last `blocks`, of the `last` one, or the `latents`."""
    fit: Literal["sweep", "lbfgs"] = "sweep"
    """How classifiers are fitted: by DINOv2's `sweep`, whose best one is chosen on the
    test images, or by `lbfgs` as in studies, with a penalty that is chosen on training
    images."""
    config: SweepConfig = SWEEP
    """Of the sweep alone."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.fit == "sweep" or self.config == SWEEP,
            f"`config` ({self.config}) describes a sweep, and `fit` ({self.fit!r}) is "
            "none: leave it out, or take 'sweep'.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(NetworkOptions):
    """Options of `gfid`."""

    reference: Path
    """The statistics of real images that `reference` wrote, or others published."""
    size: int
    """The side of the samples, in pixels."""
    beside: tuple[Path, ...] = ()
    """More folders of samples, such as guided ones, for more columns."""
    origin: str = ""
    """Who made the samples, in words, where no `samples.json` tells."""
    reference_network: NetworkName | None = None
    """Where the reference's file does not tell."""
    reference_count: int | None = None
    """Where the reference's file does not tell."""
    dinov2: tuple[Path, Path] | None = None
    """DINOv2's weights and a reference made with them, for an FD-DINOv2 too."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.num_samples is not None,
            "A gFID depends on the number of samples; got none: say it "
            "(--num-samples).",
        )

    def sets(self) -> list[SampleSet]:
        """The samples of `data` and of the folders beside, each with its record."""
        return [
            SampleSet(
                images=dataclasses.replace(self, data=data).images(
                    CenterCrop(self.size)
                ),
                record=self.origin or read_sample_record(data),
                name="" if data == self.data else data.name,
            )
            for data in (self.data, *self.beside)
        ]

    def measures(
        self, place: ExtractConfig
    ) -> dict[str, tuple[FeatureNetwork, Reference]]:
        """The networks with their references, by the subfolder of their cards."""
        frechet.self_test()
        real = read_reference(
            self.reference, network=self.reference_network, count=self.reference_count
        )
        network = self.feature_network
        measures = {
            "": (network, add_image_features(real, self.reference, network, place))
        }
        if self.dinov2 is not None:
            weights, reference = self.dinov2
            other = feature_network("dinov2", weights)
            measures["dinov2"] = (other, read_reference(reference))
        return measures


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceOptions(NetworkOptions):
    """Options of `reference`."""

    file: Path
    """The .npz to be written."""
    size: int
    """The side that images are cropped to, in pixels."""
    keep_features: bool = False
    """Keep those of every image, for precision and recall."""


def show_sample_sets(
    sets: Sequence[SampleSet],
    results: Sequence[Mapping[str, float]],
    place: ExtractConfig,
) -> None:
    """Prints the numbers of sets side by side, what was left out, and their cards."""
    titles = [samples.title for samples in sets]
    cards = [place.folder / samples.name / "card_generation.json" for samples in sets]
    show_numbers([*zip(titles, results, strict=True)], cards)


def show_numbers(
    columns: Sequence[tuple[str, Mapping[str, float]]], cards: Sequence[Path]
) -> None:
    """Prints numbers side by side, the files that could not be read, and the cards."""
    console.print(numbers_table(columns, card.read(cards[0])[1]))
    skipped = [
        f"{name} ({reason})"
        for path in cards
        for name, reason in json.loads(path.read_text())["skipped"].items()
    ]
    show_names("files could not be read", skipped)
    for path in cards:
        console.print(f"Card: {path}")


def show_names(what: str, names: Sequence[str]) -> None:
    """Prints how many names there are, and the first of them; nothing for none."""
    if names:
        console.print(str(Skipped(what, len(names), names)), markup=False)
