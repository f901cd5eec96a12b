"""Opening a decoder's fine-tuning: its options, tokenizer, data and folder."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from pathlib import Path

import jax.random as jr
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import FinetuneConfig, require, require_fields
from vtp_eqx.data.mixture import source_fingerprint
from vtp_eqx.evaluation.in_training import evaluate_tokenizer, LabeledImages
from vtp_eqx.frozen.depth_features import DepthFeatures
from vtp_eqx.frozen.lpips import load_perceptual, Perceptual
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import weights_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import check_batch_size, open_sources, random_examples
from vtp_eqx.runs.finetune_decoder import EncodedImages
from vtp_eqx.runs.multihost import is_main_process, raise_on_all
from vtp_eqx.runs.pictures import save_reconstructions
from vtp_eqx.runs.run_dir import (
    check_config_unchanged,
    check_data_unchanged,
    lock_folder,
    write_config,
)
from vtp_eqx.runs.run_options import RunOptions
from vtp_eqx.runs.vision import load_network, LoadTokenizer
from vtp_eqx.training.adversarial import AdversarialObjective
from vtp_eqx.training.adversarial_step import Optimizers
from vtp_eqx.training.parameter_counts import num_parameters
from vtp_eqx.training.terms.reconstruction import blank_perceptual_if_used


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Options of a decoder's fine-tuning: tokenizer, data, config, folder."""

    config: FinetuneConfig
    tokenizer: str = ""
    """A run, a folder or file of ours or as published, or a name on the hub."""
    data: tuple[str, ...] = ()
    """Folders, tars or prepared sets (PATH:SPLIT)."""
    out: str = "runs/finetune"
    validation: str = ""
    """What the run is evaluated on; by default a few images of the data."""
    validation_split: str = ""
    perceptual: tuple[str, ...] = ()
    """The published weights of VGG16 and of LPIPS, where that is learned from."""
    vision: str = ""
    """What a discriminator of features sees with: a tokenizer, whose encoder is taken,
    or a published file of DINOv2, by its own name."""
    vision_side: int | None = None
    """What images are resized to for it; by default 224 (RAE) for DINOv2, and for a
    tokenizer its own size."""
    num_eval: int = 256
    evaluate_every: int = 1000
    keep_best: int = 0
    """Checkpoints kept beside the last: those of the best PSNR."""
    workers: int = 8

    def __post_init__(self):
        super().__post_init__()
        require_fields(self, "1 or more", "num_eval")

    def check(self) -> None:
        """Raises `ValueError` where options are missing or do not fit one another."""
        require(
            bool(self.tokenizer and self.data),
            f"`tokenizer` ({self.tokenizer!r}) and `data` ({self.data}) must name what "
            "is fine-tuned and on which images: give both.",
        )
        require(
            bool(self.validation) or not self.validation_split,
            "`validation_split` needs `validation`: give it, or leave the split out.",
        )
        is_used = self.config.reconstruction.uses_perceptual
        require(
            len(self.perceptual) == (2 if is_used else 0),
            "`perceptual` must be two files, of VGG16 and of LPIPS, where "
            "`config.reconstruction.perceptual_weight` is above 0; got "
            f"{self.perceptual} for {self.config.reconstruction.perceptual_weight}: "
            "name both, or set the weight to 0.",
        )
        kind = self.config.adversarial.discriminator.kind
        require(
            bool(self.vision) == (kind == "features"),
            "`vision` must name what a discriminator of the kind 'features' sees with, "
            f"and is for no other; got {self.vision!r} for {kind!r}: give it, or "
            "change `config.adversarial.discriminator.kind`.",
        )
        require(
            bool(self.vision) or self.vision_side is None,
            f"`vision_side` ({self.vision_side}) needs `vision`: give it, or leave the "
            "side out.",
        )


# What may not change in a run that is continued, beside its config.
FIXED = ("split", "vision_side")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSetup:
    """Everything a fine-tuning needs; this process holds its folder."""

    tokenizer: Tokenizer
    batches: EncodedImages
    mesh: Mesh
    perceptual: Perceptual | None
    vision: DepthFeatures | None
    evaluate: Callable[[Tokenizer, int], dict[str, float]]


@contextlib.contextmanager
def open_finetuning(
    options: FinetuneOptions, load: LoadTokenizer
) -> Iterator[FinetuneSetup]:
    """The setup of a run that may begin, or go on as it was begun.

    `load` is `vtp_eqx.tokenizer.load`. A `ValueError` where the run was begun with
    other settings, data or weights of a network, and where files are not what they
    should be; a `FolderInUseError` where another process writes the folder.
    """
    options.check()
    out, config, mesh = Path(options.out), options.config, data_mesh(options.devices)
    _check_config(config, mesh)
    with contextlib.ExitStack() as held:
        with raise_on_all():
            if is_main_process():
                held.enter_context(lock_folder(out))
            check_config_unchanged(out, config, options, FIXED)
            tokenizer = load(options.tokenizer)
            source = open_sources(options.data, options.split)
            perceptual = (
                load_perceptual(*options.perceptual) if options.perceptual else None
            )
            vision, eyes = _vision(options, load)
            seen = source
            if options.validation:
                seen = open_sources([options.validation], options.validation_split)
            size = tokenizer.config.image_size
            images = random_examples(seen, options.num_eval, size, seed=2).image
            unlabeled = LabeledImages(images, np.full(len(images), -1))
        data = f"{source_fingerprint(source)} for {weights_hash(tokenizer)}{eyes}"
        check_data_unchanged(out, data)
        with raise_on_all():
            if is_main_process():
                write_config(out, config, options, data)

        def evaluate(tokenizer: Tokenizer, step: int) -> dict[str, float]:
            if is_main_process():
                save_reconstructions(tokenizer, images, out / "figures", step)
            return evaluate_tokenizer(tokenizer, None, unlabeled)

        yield FinetuneSetup(
            tokenizer=tokenizer, mesh=mesh, perceptual=perceptual, vision=vision,
            evaluate=evaluate,
            batches=EncodedImages(
                tokenizer, source, config, mesh, folder=out, workers=options.workers
            ),
        )  # fmt: skip


def dry_run_lines(options: FinetuneOptions, load: LoadTokenizer) -> list[str]:
    """What the run will be, a line each; nothing is written, and nothing trained."""
    options.check()
    config, mesh = options.config, data_mesh(options.devices)
    _check_config(config, mesh)
    tokenizer = load(options.tokenizer)
    source = open_sources(options.data, options.split)
    objective = AdversarialObjective(
        config, tokenizer, blank_perceptual_if_used(config.reconstruction),
        _vision(options, load)[0],
    )  # fmt: skip
    decoder = num_parameters(lambda: tokenizer.decoder)
    discriminator = num_parameters(lambda: objective.make_discriminator(key=jr.key(0)))
    # Of both, weights and two moments, and the decoder's average.
    state = 4 * (4 * decoder + 3 * discriminator)
    adversarial, images = config.adversarial, config.num_steps * config.batch_size
    return [
        f"data            {len(source):,} images, {images / len(source):,.1f} epochs",
        f"steps           {config.num_steps:,} of {config.batch_size} images on "
        f"{mesh.devices.size} devices; the discriminator learns from step "
        f"{adversarial.discriminator_start:,}, the decoder from it from "
        f"{adversarial.decoder_start:,}",
        f"parameters      decoder {decoder:,}, discriminator {discriminator:,}",
        f"training state  {state / 1e9:.3g} GB, of which `sharding` "
        f"({config.sharding!r}) says what devices share",
    ]


def _check_config(config: FinetuneConfig, mesh: Mesh) -> None:
    """An error before a folder is begun, which would then refuse the right value."""
    Optimizers.of(config)
    check_batch_size(config, mesh)


def _vision(
    options: FinetuneOptions, load: LoadTokenizer
) -> tuple[DepthFeatures | None, str]:
    """What the discriminator sees with, and which weights that has."""
    if not options.vision:
        return None, ""
    levels = options.config.adversarial.discriminator.num_levels
    network, side, weights = load_network(options.vision, load)
    features = DepthFeatures(network, levels, options.vision_side or side)
    return features, f", seen with {weights}"
