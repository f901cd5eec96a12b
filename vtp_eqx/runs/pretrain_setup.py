"""Opening a pre-training: its data and networks, checked before the first step."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import logging
from pathlib import Path
import tempfile
from typing import NamedTuple

from vtp_eqx.config import from_dict, require
from vtp_eqx.data.caption_shuffle import caption_rows
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.labels import NO_LABEL
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import make_sampler, source_fingerprint
from vtp_eqx.data.prefetch import ExampleBatch, ExampleReader
from vtp_eqx.data.sources import TfdsSource
from vtp_eqx.evaluation.images import Images
from vtp_eqx.evaluation.in_training import LabeledImages
from vtp_eqx.evaluation.labels import first_labels, require_labels
from vtp_eqx.evaluation.prompts import (
    check_class_names,
    describe_classes,
    read_class_names,
    read_templates,
)
from vtp_eqx.frozen.lpips import load_perceptual, Perceptual
from vtp_eqx.mesh import data_mesh
from vtp_eqx.runs.batches import Batches, open_sources, random_examples
from vtp_eqx.runs.captions import (
    caption_encoder,
    encode_class_prompts,
    save_words,
    text_tokenizer_for,
    WORDS,
)
from vtp_eqx.runs.command import exit_with_message
from vtp_eqx.runs.corruption import check_recompute
from vtp_eqx.runs.dry_run import dry_run, dry_run_lines, DryRun
from vtp_eqx.runs.log import Sink, tensorboard_sink, wandb_sink, warn
from vtp_eqx.runs.multihost import is_main_process, raise_on_all
from vtp_eqx.runs.pretrain_options import FIXED, PretrainOptions
from vtp_eqx.runs.recovery import read_postmortem, replay
from vtp_eqx.runs.run_dir import (
    check_config_unchanged,
    check_data_unchanged,
    lock_folder,
    read_config,
    write_config,
)
from vtp_eqx.runs.vision import LoadTokenizer, vision_features
from vtp_eqx.scenes.captions import class_templates
from vtp_eqx.scenes.render import class_names, GROUP, SceneConfig, STUDY_DIFFICULTY
from vtp_eqx.scenes.tfds_builder import prepare_scenes
from vtp_eqx.training.pretrain import initial_state, pretrain_step, text_config
from vtp_eqx.training.terms.reconstruction import require_perceptual_weights


NUM_TEMPLATES = 32  # of scenes


class Data(NamedTuple):
    """The sources of a run, and what is known of their classes."""

    train: Source
    validation: Source
    group: int  # consecutive rows that stay together in a batch
    class_names: Sequence[str]
    templates: Sequence[str]  # prompts with {} for the class


class PretrainSetup:
    """Everything a pre-training needs, opened from its options.

    `words` is the text tokenizer, and `prompts` the ids of class names in sentences;
    each is `None` where nothing learns from captions, or classes have no names.
    """

    def __init__(self, options: PretrainOptions, load: LoadTokenizer):
        """`load` is `vtp_eqx.tokenizer.load`, for the frozen network of `options`."""
        config, out = options.config, Path(options.out)
        self.options, self.config, self.out = options, config, out
        self.mesh = data_mesh(options.devices)
        data = open_data(options)
        self.vision, self.vision_weights = None, ""
        if options.vision:
            self.vision, self.vision_weights = vision_features(
                config, options.vision, load
            )
        self.train, self.validation = data.train, data.validation
        self.class_names = data.class_names
        text = text_config(config)
        encode = self.prompts = self.words = None
        if text is not None:
            # Written when the run begins: data may still be refused, and replaced.
            self.words = text_tokenizer_for(text, self.train, out / WORDS)
            encode = caption_encoder(self.words, text)
            if data.class_names:
                self.prompts = encode_class_prompts(
                    encode, text, data.class_names, data.templates
                )
        self.batches = Batches(
            reader=ExampleReader(
                source=self.train,
                sampler=make_sampler(
                    self.train, config.batch_size, seed=config.seed,
                    window=options.window, group=data.group,
                    one_shard_batches=options.one_shard_batches,
                ),
                size=options.image_size,
                encode=encode,
                caption_rows=(
                    None if (seed := config.controls.caption_shuffle) is None
                    else caption_rows(len(self.train), seed)
                ),
            ),
            folder=out,
            workers=options.workers,
            processes=options.processes,
            max_skip_rate=options.max_skip_rate,
        )  # fmt: skip

    @functools.cached_property
    def probe_images(self) -> LabeledImages:
        """Training images that a linear probe is fitted to."""
        return LabeledImages(self._probe_examples.image, self._probe_examples.label)

    @functools.cached_property
    def eval_images(self) -> LabeledImages:
        """What is evaluated during the run and at its end."""
        return LabeledImages(self._eval_examples.image, self._eval_examples.label)

    @functools.cached_property
    def dry_run(self) -> DryRun:
        """The dry run of this training; compiles only if the options say so."""
        return dry_run(
            self.config, self.mesh, self.options.image_size,
            compiles=self.options.dry_run,
        )  # fmt: skip

    @property
    def perceptual(self) -> Perceptual | None:
        """The network of LPIPS, where its weights were named."""
        return load_lpips(self.options.perceptual)

    @functools.cached_property
    def sinks(self) -> list[Sink]:
        """The optional sinks of the log, in the main process."""
        sinks, options = [], self.options
        if is_main_process() and options.tensorboard:
            sinks.append(tensorboard_sink(self.out / "tensorboard"))
        if is_main_process() and options.wandb:
            fields = dataclasses.asdict(self.config)
            sinks.append(wandb_sink(options.wandb, self.out, fields))
        return sinks

    def check_classes(self) -> str:
        """Which class names are the first and the last, in a line.

        A `ValueError` where they cannot be those of the labels of `validation`, as far
        as these are known without an image.
        """
        folders = getattr(self.validation, "class_names", ())
        labels = first_labels(self._images(self.validation))
        check_class_names(self.class_names, labels, folders)
        return describe_classes(self.class_names, folders)

    def check_eval_labels(self) -> None:
        """A `ValueError` where names are given and a label of `eval_images` has none.

        Where only some images have labels, standard error says that no probe is fitted.
        """
        seen = self._eval_examples
        if self.prompts is not None:
            require_labels(self._images(self.validation), seen.row, seen.label)
            check_class_names(self.class_names, seen.label)
        for source, examples in (
            (self.validation, seen),
            (self.train, self._probe_examples),
        ):
            if (examples.label == NO_LABEL).all():
                continue
            try:
                require_labels(self._images(source), examples.row, examples.label)
            except ValueError as error:
                if is_main_process():
                    warn(f"No linear probe is fitted: {error}")

    def _images(self, source: Source) -> Images:
        return Images(source=source, crop=CenterCrop(self.config.tokenizer.image_size))

    @functools.cached_property
    def _eval_examples(self) -> ExampleBatch:
        size = self.config.tokenizer.image_size
        return random_examples(self.validation, self.options.num_eval, size, seed=2)

    @functools.cached_property
    def _probe_examples(self) -> ExampleBatch:
        size = self.config.tokenizer.image_size
        return random_examples(self.train, 2 * self.options.num_eval, size, seed=1)


@contextlib.contextmanager
def open_pretraining(
    options: PretrainOptions, load: LoadTokenizer
) -> Iterator[PretrainSetup]:
    """The setup of a run that starts, or continues with the same config.

    `load` is `vtp_eqx.tokenizer.load`.

    Its folder is locked for the block, and its config written, except for a dry run. An
    error of options or data is a `SystemExit` with its sentence; a folder that another
    process writes is a `FolderInUseError`.
    """
    with contextlib.ExitStack() as stack:
        with exit_with_message(ValueError, ImportError):
            setup = _checked_setup(options, load, stack)
        yield setup


def reopen_pretraining(run_folder: Path, load: LoadTokenizer) -> PretrainSetup:
    """The setup of a run that was begun, wherever its folder is now, on one device."""
    options = from_dict(PretrainOptions, read_config(run_folder))
    options = dataclasses.replace(options, devices=1, out=str(run_folder))
    return PretrainSetup(options, load)


def replay_pretraining(folder: Path, load: LoadTokenizer) -> None:
    """Prints the metrics of the failed steps, as they were and as they are here.

    `folder` is one of a run's `postmortem`. Runs on one device.
    """
    report = read_postmortem(folder)
    with exit_with_message(ValueError, ImportError):
        setup = reopen_pretraining(folder.absolute().parent.parent, load)
    template = initial_state(setup.config, None)
    step = pretrain_step(
        setup.config, template, setup.mesh, setup.perceptual, setup.vision
    )
    # Bad examples were logged by the run itself.
    with tempfile.TemporaryDirectory() as scratch:
        batches = dataclasses.replace(setup.batches, folder=Path(scratch))
        again = replay(folder, template, step, batches, setup.mesh)
    print(f"{report['why']}\nState: {report['state']}.")
    for then, now in zip(report["bad"], again, strict=True):
        print(f"step {then['step']}, batch {then['batch']}, rows {then['rows']}")
        for name, value in now.metrics.items():
            print(f"  {name:20} then {then['metrics'].get(name)}  now {value:.6g}")


def _checked_setup(
    options: PretrainOptions, load: LoadTokenizer, stack: contextlib.ExitStack
) -> PretrainSetup:
    out = Path(options.out)
    with raise_on_all():
        if is_main_process() and not options.dry_run:
            stack.enter_context(lock_folder(out))
        check_config_unchanged(out, options.config, options, FIXED)
        if "reconstruction" in options.config.term_weights and not options.dry_run:
            network = load_lpips(options.perceptual)
            require_perceptual_weights(options.config.reconstruction, network)
        needed = ", ".join(sorted(options.config.vision_widths))
        require(
            bool(options.vision) or not needed or options.dry_run,
            f"`vision` ('') must name the frozen network that {needed} learns from: "
            "give a tokenizer, or a published file of DINOv2.",
        )
        setup = PretrainSetup(options, load)
        check_recompute(
            setup.config.recompute_every, setup.mesh.devices.flat[0].platform
        )
        lines = dry_run_lines(setup.config, setup.dry_run, setup.mesh, len(setup.train))
        if setup.prompts is not None:
            lines.append(setup.check_classes())
    data = source_fingerprint(setup.train)
    if setup.vision_weights:
        data += f" aligned with {setup.vision_weights}"
    check_data_unchanged(out, data)
    if is_main_process():
        print("\n".join(lines))
    if options.dry_run:
        return setup
    with raise_on_all():
        setup.check_eval_labels()
        least = min(len(setup.probe_images.image), len(setup.eval_images.image))
        require(
            least >= 2,
            f"`num_eval` leaves {least} images to evaluate on; 2 are needed: raise it.",
        )
        if is_main_process():
            save_words(setup.words, out)
            write_config(out, options.config, options, data)
    with raise_on_all():
        _ = setup.sinks  # an extra that is not installed is an error here
    return setup


def open_data(options: PretrainOptions) -> Data:
    """The data that options name, or the scenes, rendered the first time."""
    templates = read_templates(options.templates) if options.templates else []
    if not options.data:
        folder = _prepare_scenes(
            options.image_size, options.num_scenes, Path(options.out).parent / "scenes"
        )
        return Data(
            TfdsSource(folder, "train"), TfdsSource(folder, "validation"),
            options.group or GROUP, class_names(),
            templates or class_templates(NUM_TEMPLATES),
        )  # fmt: skip
    train = validation = open_sources(options.data, options.split, options.weights)
    if options.validation:
        validation = open_sources([options.validation], options.validation_split)
    names = read_class_names(options.classes) if options.classes else []
    return Data(train, validation, options.group or 1, names, templates)


@functools.cache
def load_lpips(files: tuple[str, ...]) -> Perceptual | None:
    """The network of LPIPS, where its weights were named. Half a gigabyte: once."""
    return load_perceptual(*files) if files else None


def _prepare_scenes(size: int, count: int, folder: Path) -> Path:
    """Where the rendered scenes are, prepared the first time."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # it logs downloads
    config = SceneConfig(
        size=size, num_train=count, num_validation=max(24, count // 5 // 24 * 24),
        difficulty=STUDY_DIFFICULTY,
    )  # fmt: skip
    return prepare_scenes(config, folder)
