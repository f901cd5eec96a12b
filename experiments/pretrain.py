"""Pre-trains a tokenizer on captioned images, for an hour or for weeks.

    python experiments/pretrain.py                        # scenes, 2 CPU cores
    python experiments/pretrain.py laptop --out runs/tars --data 'data/scenes/*.tar'
    python experiments/pretrain.py B --out runs/b --data cc12m datacomp --weights 1 9 \
        --validation imagenet/val --classes names.txt --dry-run
    python experiments/pretrain.py --replay runs/b/postmortem/step-812-batch-811
    python experiments/pretrain.py --smoke

Presets are `laptop`, `S`, `B`, `L`, `S-1-gpu`, `S-8-gpus` and `B-8-gpus`; `--help`
behind one lists its values, each an option. Data are tars of pairs, prepared data sets
of TensorFlow Datasets, or folders of images; by default the scenes. The same command
again continues where the run was, bit for bit. Exit status: 0 at the end of the run,
143 where SIGTERM ended it with its state saved, 75 where it stalled (with
`--exit-on-stall`), 2 where an option is none, and 1 with a sentence else.

A run's folder has config.json, data.txt, metrics.jsonl, checkpoints, figures,
report.md, and at the end tokenizer and card.json. Failures are in bad_examples-*.jsonl
(examples), postmortem (steps, for `--replay`) and stalls.txt.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import logging
import os
from pathlib import Path
import sys
import tempfile

import jax
import numpy as np
import tyro

from vtp_eqx.config import from_dict, presets, require
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import make_sampler, source_fingerprint
from vtp_eqx.data.prefetch import ExampleReader
from vtp_eqx.data.sources import TfdsSource
from vtp_eqx.evaluation.batches import reconstruct_images
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, LabeledImages, write_card
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.frozen.lpips import load_perceptual, Perceptual
from vtp_eqx.mesh import data_mesh, gather_to_host
from vtp_eqx.scenes.captions import class_templates
from vtp_eqx.scenes.render import class_names, GROUP, SceneConfig
from vtp_eqx.scenes.tfds_builder import prepare_scenes
from vtp_eqx.study.pictures import save_grid
from vtp_eqx.study.recipe import METHODS, pretrain_config, RECIPES
from vtp_eqx.tokenizer import save, Tokenizer
from vtp_eqx.training.batches import (
    Batches,
    caption_encoder,
    encode_prompts,
    open_sources,
    random_examples,
    text_tokenizer_for,
)
from vtp_eqx.training.curves import draw_curves
from vtp_eqx.training.dry_run import dry_run, dry_run_lines, DryRun
from vtp_eqx.training.log import Sink
from vtp_eqx.training.loop import Callbacks, FaultTolerance, run_training
from vtp_eqx.training.monitors import collapse_monitor
from vtp_eqx.training.multihost import is_main_process, OtherProcessError, raise_on_all
from vtp_eqx.training.pixels import require_perceptual_weights
from vtp_eqx.training.pretrain import (
    init_pretraining,
    initial_state,
    PCA_IMAGES,
    pretrain_step,
)  # fmt: skip
from vtp_eqx.training.pretrain_objective import text_config
from vtp_eqx.training.pretrain_options import FIXED, open_sinks, PretrainOptions
from vtp_eqx.training.recovery import read_postmortem, replay as replay_steps
from vtp_eqx.training.report import write_report
from vtp_eqx.training.run_dir import (
    check_config_unchanged,
    check_data_unchanged,
    FolderInUseError,
    lock_folder,
    read_config,
    write_config,
)
from vtp_eqx.training.state import TrainState
from vtp_eqx.training.throughput import progress_line, StepCost, throttled_print
from vtp_eqx.training.watchdog import StallConfig


LAPTOP = dataclasses.replace(
    pretrain_config(RECIPES["laptop"], METHODS["VTP"], 0),
    num_steps=14_000,  # half an hour on one core
)
NUM_TEMPLATES = 32  # of scenes
STORED = 384  # ours: of 256 pixels, small crops would be enlarged, large ones blurred

PUBLISHED = {
    "S": ("VTP-S as published.", presets.PRETRAIN_S),
    "B": ("VTP-B as published.", presets.PRETRAIN_B),
    "L": ("VTP-L as published.", presets.PRETRAIN_L),
    "S-1-gpu": ("VTP-S on 1e8 pairs, one GPU.", presets.PRETRAIN_S_1_GPU),
    "S-8-gpus": ("VTP-S on 4e8 pairs, eight.", presets.PRETRAIN_S_8_GPUS),
    "B-8-gpus": ("VTP-B on 4e8 pairs, eight.", presets.PRETRAIN_B_8_GPUS),
}
PRESETS: Mapping[str, tuple[str, PretrainOptions]] = {
    "laptop": (
        "A small tokenizer of 32 pixels, for CPUs.",
        PretrainOptions(config=LAPTOP),
    ),
} | {
    name: (text, PretrainOptions(config=config, load_size=STORED))
    for name, (text, config) in PUBLISHED.items()
}


class Setting:
    """The data of a run and what is looked at, opened from its options."""

    def __init__(self, options: PretrainOptions):
        config, out = options.config, Path(options.out)
        self.options, self.config, self.out = options, config, out
        self.mesh = data_mesh(options.devices)
        self.size = options.load_size or config.tokenizer.image_size
        group, names, templates = options.group or 1, [], []
        if options.data:
            self.train = open_sources(
                options.data, options.split, options.weights,
                progress=throttled_print("tars indexed: {} of {}"),
            )  # fmt: skip
            self.validation = self.train
            if options.validation:
                self.validation = open_sources(
                    [options.validation], options.validation_split
                )
            names = lines_of(options.classes)
        else:
            folder = scenes(self.size, options.num_scenes, out.parent / "scenes")
            self.train = TfdsSource(folder, "train")
            self.validation = TfdsSource(folder, "validation")
            group, names = options.group or GROUP, [*class_names()]
            templates = class_templates(NUM_TEMPLATES)
        text = text_config(config)
        self.encode = self.prompts = self.words = None
        if text is not None:
            self.words = text_tokenizer_for(text, self.train, out / "words.json")
            self.encode = caption_encoder(self.words, text)
            templates = lines_of(options.templates) or templates
            if names:
                self.prompts = encode_prompts(self.encode, text, names, templates)
        self.feed = Batches(
            reader=ExampleReader(
                source=self.train,
                sampler=make_sampler(
                    self.train, config.batch_size, seed=config.seed,
                    window=options.window, group=group,
                ),
                size=self.size,
                encode=self.encode,
            ),
            folder=out,
            workers=options.workers,
            processes=options.processes,
            max_skip_rate=options.max_skip_rate,
        )  # fmt: skip

    @functools.cached_property
    def known(self) -> LabeledImages:
        """What a probe is fitted to."""
        return self._labeled(self.train, 2 * self.options.num_eval, seed=1)

    @functools.cached_property
    def judged(self) -> LabeledImages:
        """What is judged during the run and at its end."""
        return self._labeled(self.validation, self.options.num_eval, seed=2)

    @functools.cached_property
    def forecast(self) -> DryRun:
        return dry_run(self.config, self.mesh, self.size, compiles=self.options.dry_run)

    def _labeled(self, source: Source, count: int, seed: int) -> LabeledImages:
        size = self.config.tokenizer.image_size
        found = random_examples(source, count, size, seed=seed)
        return LabeledImages(found.image, found.label)


def pretrain(options: PretrainOptions) -> None:
    """Runs to the end, or says what that would take."""
    with contextlib.ExitStack() as held:
        with in_a_sentence():
            setting = begun(options, held)
            if options.dry_run:
                return
            with raise_on_all():
                watchers = open_sinks(options) if is_main_process() else []
        train(setting, watchers)


def begun(options: PretrainOptions, held: contextlib.ExitStack) -> Setting:
    """The setting of a run that may begin, or go on as it was begun.

    Its folder is `held` from before anything is written on, but for a dry run.
    """
    if options.distributed:
        jax.distributed.initialize()
    out = Path(options.out)
    # A run that is continued, or follows its dry run, compiles nothing anew.
    jax.config.update("jax_compilation_cache_dir", str(out.parent / "compiled"))
    with raise_on_all():
        if is_main_process() and not options.dry_run:
            held.enter_context(lock_folder(out))
        check_config_unchanged(out, options.config, options, FIXED)
        if "reconstruction" in options.config.term_weights and not options.dry_run:
            network = perceptual_of(options.perceptual)
            require_perceptual_weights(options.config.reconstruction, network)
        setting = Setting(options)
        lines = dry_run_lines(
            setting.config, setting.forecast, setting.mesh, len(setting.train)
        )
    data = source_fingerprint(setting.train)
    check_data_unchanged(out, data)
    if is_main_process():
        print("\n".join(lines))
    if options.dry_run:
        return setting
    with raise_on_all():
        least = min(len(setting.known.image), len(setting.judged.image))
        require(
            least >= 2,
            f"`num_eval` leaves {least} images to evaluate on; 2 are needed: raise it.",
        )
        if is_main_process():
            write_config(out, options.config, options, data)
    return setting


def train(setting: Setting, watchers: list[Sink]) -> None:
    """All steps that are left, and what is made of the last state."""
    options, config, out = setting.options, setting.config, setting.out
    known, judged, mesh = setting.known, setting.judged, setting.mesh

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        tokenizer = gather_to_host(state.student.tokenizer)
        some = judged.image[:8]
        rows = np.concatenate([some, reconstruct_images(tokenizer, some)])
        if is_main_process():
            save_grid(rows, out / "figures" / f"reconstructions-{step:07d}.png", 8)
        return evaluate_tokenizer(tokenizer, known, judged, setting.prompts)

    def draw(step: int, values: Mapping[str, float]) -> None:
        if "psnr" in values:  # behind an evaluation
            draw_curves(out / "metrics.jsonl", out / "figures" / "curves.png")

    def progress(step: int, num_steps: int, values: dict[str, float]) -> None:
        print(progress_line(step, num_steps, values), flush=True)

    lpips = perceptual_of(options.perceptual)
    stall = StallConfig(seconds=options.stall_seconds, ends=options.exit_on_stall)
    state, step = init_pretraining(config, known.image[:PCA_IMAGES], mesh, lpips)
    state = run_training(
        state, step, setting.feed,
        num_steps=config.num_steps, mesh=mesh, folder=out, progress=progress,
        log_every=options.log_every, save_every=options.save_every,
        fault_tolerance=FaultTolerance(
            keep=options.keep, keep_best=options.keep_best,
            max_rollbacks=options.max_rollbacks, stall=stall,
        ),
        callbacks=Callbacks(
            monitor=collapse_monitor(
                judged.image[:64],
                temperature=config.distillation.student_temperature,
            ),
            evaluate=evaluate, evaluate_every=options.evaluate_every,
            score=lambda values: values.get("probe", -values.get("total", np.inf)),
            sinks=[*watchers, draw],
            cost=StepCost(images=config.batch_size, peak=setting.forecast.peak,
                          flops=setting.forecast.formula_flops),
            rows=setting.feed.rows,
        ),
        holds_folder=True,
    )  # fmt: skip
    tokenizer, sums = measure_latents(  # by all processes, as `here`
        gather_to_host(state.student.tokenizer), setting.train, out, mesh=setting.mesh,
        max_images=options.latent_images, num_threads=options.workers,
        progress=throttled_print("latents measured: {} of {}"),
    )  # fmt: skip
    if is_main_process():
        finish(setting, tokenizer, sums.coverage(len(setting.train)))


def finish(setting: Setting, tokenizer: Tokenizer, latents_of: str) -> None:
    """Saves the tokenizer, and writes its card and the report."""
    out, known, judged = setting.out, setting.known, setting.judged
    numbers = evaluate_tokenizer(tokenizer, known, judged, setting.prompts)
    save(tokenizer, out / "tokenizer")
    write_card(
        out / "card.json", numbers, tokenizer, known, judged,
        seed=setting.config.seed, latents_of=latents_of,
    )  # fmt: skip
    config = setting.config
    write_report(
        out, numbers, command=" ".join(["python", *sys.argv]),
        text=f"{config.num_steps:,} steps of {config.batch_size} images out of "
        f"{len(setting.train):,}.",
    )  # fmt: skip
    print(f"Tokenizer: {out / 'tokenizer'}\nReport: {out / 'report.md'}")


def replay(folder: Path) -> None:
    """Shows the terms of the steps of a postmortem, then and now."""
    if "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    report = read_postmortem(folder)
    with in_a_sentence():
        setting = setting_of(folder.absolute().parent.parent)
    mesh = setting.mesh
    template = initial_state(setting.config, None)
    network = perceptual_of(setting.options.perceptual)
    step = pretrain_step(setting.config, template, mesh, network)
    # What is wrong with examples was written down by the run itself.
    with tempfile.TemporaryDirectory() as scratch:
        feed = dataclasses.replace(setting.feed, folder=Path(scratch))
        again = replay_steps(folder, template, step, feed, mesh)
    print(f"{report['why']}\nState: {report['state']}.")
    for then, now in zip(report["bad"], again, strict=True):
        print(f"step {then['step']}, batch {then['batch']}, rows {then['rows']}")
        for name, value in now.metrics.items():
            print(f"  {name:20} then {then['metrics'].get(name)}  now {value:.6g}")


def setting_of(run_folder: Path) -> Setting:
    """That of a run which was begun, wherever its folder is now, on one device."""
    options = from_dict(PretrainOptions, read_config(run_folder))
    return Setting(dataclasses.replace(options, devices=1, out=str(run_folder)))


@functools.cache
def perceptual_of(files: tuple[str, ...]) -> Perceptual | None:
    """The network of LPIPS, where its weights were named. Half a gigabyte: once."""
    return load_perceptual(*files) if files else None


def lines_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if path else []


def scenes(size: int, count: int, folder: Path) -> Path:
    """Where the rendered scenes are, prepared the first time."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # it speaks of downloads
    config = SceneConfig(
        size=size, num_train=count, num_validation=max(24, count // 5 // 24 * 24),
        difficulty=RECIPES["laptop"].data.difficulty,
    )  # fmt: skip
    return prepare_scenes(config, folder)


@contextlib.contextmanager
def in_a_sentence() -> Iterator[None]:
    """A block whose errors are of options or data: they end the program, told alone."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise SystemExit(str(error)) from error


def smoke() -> None:
    """A tiny run that is cut off, continued, and looked at from all sides."""
    config = pretrain_config(RECIPES["smoke"], METHODS["VTP"], 0)
    with tempfile.TemporaryDirectory() as scratch:
        options = PretrainOptions(
            config=config, out=f"{scratch}/run", num_scenes=480, num_eval=96,
            log_every=2, save_every=2, evaluate_every=4, workers=2, devices=1,
        )  # fmt: skip
        pretrain(options)
        pretrain(options)
        assert (Path(options.out) / "report.md").exists()


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--smoke"]:
        smoke()
    elif arguments[:1] == ["--replay"] and len(arguments) == 2:
        replay(Path(arguments[1]))
    else:
        if not arguments or arguments[0].startswith("-"):
            sys.argv.insert(1, "laptop")
        options = tyro.extras.overridable_config_cli(
            {**PRESETS}, description=__doc__, config=(tyro.conf.AvoidSubcommands,)
        )
        pretrain(options)


if __name__ == "__main__":
    try:
        main()
    except (OSError, FolderInUseError, FloatingPointError, OtherProcessError) as error:
        raise SystemExit(str(error)) from error
