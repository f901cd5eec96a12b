"""From a run specification to its numbers: tokenizer, latents, generator, results.

Every stage leaves its result in a folder of its own and is skipped where that exists.
Another study may be making the same: a stage waits for it, and uses what it made.
"""

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path
import shutil

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.config import DecodeConfig, FinetuneConfig, require
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.batches import encode_images
from vtp_eqx.evaluation.extract import Report
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.files import exclusive_folder
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.batches import ArrayBatches
from vtp_eqx.runs.finetune_decoder import finetune_decoder
from vtp_eqx.runs.objective_balance import objective_balance
from vtp_eqx.runs.pretrain import PCA_IMAGES, pretrain
from vtp_eqx.runs.train_decoder import train_decoder
from vtp_eqx.runs.train_generator import train_generator
from vtp_eqx.study.dataset import Dataset, load_dataset
from vtp_eqx.study.generation import BATCH
from vtp_eqx.study.measure import measure, RunResult
from vtp_eqx.study.rotation import rotate_latents
from vtp_eqx.study.run_spec import RunPaths, RunSpec
from vtp_eqx.tensor_files import CONFIG_FILE
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.adapter import adapt, AdapterConfig
from vtp_eqx.training.decode import EncodedBatch
from vtp_eqx.training.terms.alignment import FeatureGrid, VisionFeatures


Encoded = Callable[[], np.ndarray]  # the raw latents of the training images


def execute_run(spec: RunSpec, paths: RunPaths, report: Report) -> RunResult:
    """The numbers of a run, made or found."""
    result = RunResult.read(paths, spec)
    if result is not None:
        return result
    report("data", 0, 1)
    data = load_dataset(spec.kind, spec.text, paths.data(spec))
    stages = _Stages(spec, paths, data, report)
    tokenizer = encoder = (
        stages.tokenizer() if spec.adapter is None else stages.adapted(spec.adapter)
    )
    encoded = stages.encoded(encoder)
    if spec.decode is not None:
        tokenizer = stages.decoder(spec.decode, encoder, encoded)
        _check_latents(tokenizer, encoder, paths.decoder(spec))
        if spec.finetune is not None:
            tokenizer = stages.finetuned(spec.finetune, tokenizer, encoded)
            _check_latents(tokenizer, encoder, paths.finetuned(spec))
    tokenizer = as_generated(spec, tokenizer, data, paths.generator(spec))
    if spec.rotation is not None:
        encoded = stages.encoded(tokenizer)
    generators = stages.generators(tokenizer, encoded)
    with exclusive_folder(paths.result(spec)):
        result = RunResult.read(paths, spec)
        if result is not None:
            return result
        balance = stages.objective_balance()
        report("measuring", 0, 1)
        return measure(spec, tokenizer, generators, data, paths, report, balance)


def as_generated(
    spec: RunSpec, tokenizer: Tokenizer, data: Dataset, folder: Path
) -> Tokenizer:
    """A run's tokenizer, its latents in the basis and scale that generators learn."""
    if spec.rotation is not None:
        tokenizer = rotate_latents(tokenizer, key=jr.key(spec.rotation))
        tokenizer = with_latent_statistics(tokenizer, data, folder)
    return tokenizer.with_one_scaling_factor() if spec.one_scaling_factor else tokenizer


def with_latent_statistics(
    tokenizer: Tokenizer, data: Dataset, folder: Path
) -> Tokenizer:
    """`tokenizer` with the statistics of its latents over the training images."""
    source = ArraySource({"image": data.train.image})
    return measure_latents(tokenizer, source, folder, mesh=data_mesh(1))[0]


@dataclasses.dataclass(frozen=True)
class _Stages:
    """The trainings of a run, each made or found."""

    spec: RunSpec
    paths: RunPaths
    data: Dataset
    report: Report

    def encoded(self, tokenizer: Tokenizer) -> Encoded:
        """A function that encodes the training images when it is first called."""
        images = self.data.train.image
        return functools.cache(
            lambda: encode_images(tokenizer, images, batch_size=BATCH)
        )

    def tokenizer(self, stage: str = "tokenizer") -> Tokenizer:
        """The tokenizer with its latent statistics.

        Before it the frozen network that its latents are aligned with, if they are.
        """
        spec = self.spec
        folder = self.paths.tokenizer(spec)

        def make() -> Tokenizer:
            tokenizer = pretrain(
                spec.pretrain, self.pretrain_arrays(), folder=folder,
                group=spec.kind.group, parts=self.data.parts, vision=self.vision(),
                progress=lambda done, total, metrics: self.report(stage, done, total),
            )  # fmt: skip
            return with_latent_statistics(tokenizer, self.data, folder)

        return _made_or_found(folder, make)

    def pretrain_arrays(self) -> dict[str, np.ndarray]:
        """The images, and captions where there are any, that the tokenizer sees."""
        images, rows = self.data.train, slice(self.spec.tokenizer_images)
        arrays = {"image": images.image[rows]}
        if images.caption_ids is not None:
            arrays["caption"] = images.caption_ids[rows]
        return arrays

    def vision(self) -> VisionFeatures | None:
        """The frozen network that latents are aligned with, made or found."""
        spec = self.spec.vision_run
        if spec is None:
            return None
        frozen = dataclasses.replace(self, spec=spec).tokenizer("frozen network")
        return FeatureGrid.for_latents(
            FrozenEncoder.of(frozen), self.spec.pretrain.tokenizer
        )

    def objective_balance(self) -> dict[str, float]:
        """Weights of the objectives, and cosines of their gradients, if asked for."""
        if self.spec.gradient_batches == 0:
            return {}
        self.report("gradients", 0, 1)
        return objective_balance(
            self.paths.tokenizer(self.spec), self.pretrain_arrays(),
            num_batches=self.spec.gradient_batches, group=self.spec.kind.group,
            parts=self.data.parts, mesh=data_mesh(1), vision=self.vision(),
        )  # fmt: skip

    def adapted(self, adapter: AdapterConfig) -> Tokenizer:
        """A tokenizer on the frozen encoder of the run's, with its latent statistics.

        Its decoder is not trained.
        """
        folder = self.paths.adapted(self.spec)

        def make() -> Tokenizer:
            frozen = self.tokenizer("frozen network")
            images = self.pretrain_arrays()["image"][:PCA_IMAGES]
            tokenizer = adapt(frozen, adapter, images)
            return with_latent_statistics(tokenizer, self.data, folder)

        return _made_or_found(folder, make)

    def decoder(
        self, config: DecodeConfig, tokenizer: Tokenizer, encoded: Encoded
    ) -> Tokenizer:
        """The tokenizer with a decoder trained on its frozen latents."""
        folder, report = self.paths.decoder(self.spec), self.report
        images, rows = self.data.train.image, slice(self.spec.tokenizer_images)
        return _made_or_found(folder, lambda: train_decoder(
            config, tokenizer, images[rows], encoded()[rows], folder=folder,
            progress=lambda done, total, metrics: report("decoder", done, total),
        ))  # fmt: skip

    def finetuned(
        self, config: FinetuneConfig, tokenizer: Tokenizer, encoded: Encoded
    ) -> Tokenizer:
        """The tokenizer with its decoder trained on against a discriminator."""
        folder, report = self.paths.finetuned(self.spec), self.report
        images, rows = self.data.train.image, slice(self.spec.tokenizer_images)

        def make() -> Tokenizer:
            arrays = {"image": images[rows], "latents": encoded()[rows]}
            batches = ArrayBatches(
                EncodedBatch, arrays, config.batch_size, seed=config.seed
            )
            return finetune_decoder(
                config, tokenizer, batches, folder=folder,
                progress=lambda done, total, metrics: report("stage two", done, total),
            )  # fmt: skip

        return _made_or_found(folder, make)

    def generators(
        self, tokenizer: Tokenizer, encoded: Encoded
    ) -> dict[int, Generator]:
        """The generator after each of `spec.budgets` steps."""
        spec, report, folder = self.spec, self.report, self.paths.generator(self.spec)
        saved = {n: folder / f"generator-{n}.safetensors" for n in spec.budgets}
        with exclusive_folder(folder):
            is_there = [path.exists() for path in saved.values()]
            if not all(is_there):
                if is_there != sorted(is_there, reverse=True):
                    # A later one is there: the training is past the one that was lost.
                    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
                report("latents", 0, 1)
                latents = tokenizer.normalize_latents(jnp.asarray(encoded()))
                of = latents_hash(tokenizer)

                def keep(step: int, dit: DiT) -> None:
                    save_generator(Generator(dit, of), saved[step])

                keep(spec.budgets[-1], train_generator(
                    spec.generate, np.asarray(latents),
                    self.data.train.labels(spec.labels), folder=folder,
                    snapshot=keep, snapshot_steps=spec.budgets,
                    progress=lambda done, total, _: report("generator", done, total),
                ))  # fmt: skip
            return {n: load_generator(path, tokenizer) for n, path in saved.items()}


def _check_latents(decoded: Tokenizer, encoder: Tokenizer, folder: Path) -> None:
    require(
        latents_hash(decoded) == latents_hash(encoder),
        f"The decoder in {folder} was trained after another tokenizer: remove that "
        "folder, and run again.",
    )


def _made_or_found(folder: Path, make: Callable[[], Tokenizer]) -> Tokenizer:
    """The tokenizer saved in a run's folder, or the one that `make` makes, saved.

    While another study makes it, this waits.
    """
    saved = folder / "tokenizer"
    with exclusive_folder(folder):
        if (saved / CONFIG_FILE).exists():  # written last: it was saved to its end
            return load(saved)
        tokenizer = make()
        save(tokenizer, saved)
        return tokenizer
