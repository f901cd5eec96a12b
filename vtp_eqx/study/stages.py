"""From a run specification to its numbers: tokenizer, latents, generator, results.

Every stage leaves its result in a folder of its own and is skipped where that exists.
"""

from collections.abc import Callable
import functools
from pathlib import Path
import shutil

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from vtp_eqx.config import DecodeConfig, require
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.evaluation.batches import encode_images
from vtp_eqx.evaluation.latent_statistics import measure_latents
from vtp_eqx.files import exclusive_folder
from vtp_eqx.frozen.encoder import FrozenEncoder
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.pretrain import pretrain
from vtp_eqx.runs.train_decoder import train_decoder
from vtp_eqx.runs.train_generator import train_generator
from vtp_eqx.study.dataset import Dataset, load_dataset
from vtp_eqx.study.measure import BATCH, measure, RunResult
from vtp_eqx.study.rotation import rotate_latents
from vtp_eqx.study.run_spec import RunPaths, RunSpec
from vtp_eqx.tensor_files import CONFIG_FILE
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.terms.alignment import FeatureGrid


Report = Callable[[str, int, int], None]
Encoded = Callable[[], np.ndarray]  # the raw latents of the training images


def execute_run(spec: RunSpec, paths: RunPaths, report: Report) -> RunResult:
    """The numbers of a run, made or found."""
    folder = paths.result(spec)
    result = RunResult.read(folder, spec)
    if result is not None:
        return result
    report("data", 0, 1)
    data = load_dataset(spec, paths.data(spec))
    tokenizer = encoder = _tokenizer(spec, paths, data, report)
    encoded = _encode_once(encoder, data)
    if spec.decode is not None:
        with exclusive_folder(paths.decoder(spec)):
            tokenizer = _decoded(
                spec, spec.decode, paths, tokenizer, data, encoded, report
            )
        require(
            latents_hash(tokenizer) == latents_hash(encoder),
            f"The decoder in {paths.decoder(spec)} was trained after another "
            "tokenizer: remove that folder, and run again.",
        )
    if spec.rotation is not None:
        key = jr.key(spec.rotation)
        tokenizer = rotate_latents(tokenizer, key=key)
        encoded = _encode_once(tokenizer, data)
        tokenizer = with_latent_statistics(tokenizer, data, paths.generator(spec))
    with exclusive_folder(paths.generator(spec)):
        generators = _generators(spec, paths, tokenizer, data, encoded, report)
    with exclusive_folder(folder):
        result = RunResult.read(folder, spec)
        if result is not None:
            return result
        report("measuring", 0, 1)
        return measure(spec, tokenizer, generators, data, folder, report)


def with_latent_statistics(
    tokenizer: Tokenizer, data: Dataset, folder: Path
) -> Tokenizer:
    """`tokenizer` with the statistics of its latents over the training images."""
    source = ArraySource({"image": data.train.image})
    return measure_latents(tokenizer, source, folder, mesh=data_mesh(1))[0]


def _encode_once(tokenizer: Tokenizer, data: Dataset) -> Encoded:
    """A function that encodes the training images when it is first called."""
    images = data.train.image
    return functools.cache(
        functools.partial(encode_images, tokenizer, images, batch_size=BATCH)
    )


def _tokenizer(
    spec: RunSpec,
    paths: RunPaths,
    data: Dataset,
    report: Report,
    stage: str = "tokenizer",
) -> Tokenizer:
    """The tokenizer with its latent statistics, trained or found.

    Before it the frozen network that its latents are aligned with, if they are.
    """
    folder = paths.tokenizer(spec)
    saved = folder / "tokenizer"
    # Another study may be making the same: wait for it, and use what it made.
    with exclusive_folder(folder):
        if _is_whole(saved):
            return load(saved)
        vision = None
        if spec.vision_run is not None:
            seen = _tokenizer(spec.vision_run, paths, data, report, "frozen network")
            grid_of = spec.pretrain.tokenizer
            vision = FeatureGrid.for_latents(FrozenEncoder.of(seen), grid_of)
        arrays = {"image": data.train.image}
        if data.train.caption_ids is not None:
            arrays["caption"] = data.train.caption_ids
        tokenizer = pretrain(
            spec.pretrain, arrays, folder=folder, group=data.group, vision=vision,
            progress=lambda done, total, metrics: report(stage, done, total),
        )  # fmt: skip
        tokenizer = with_latent_statistics(tokenizer, data, folder)
        save(tokenizer, saved)
        return tokenizer


def _decoded(
    spec: RunSpec,
    config: DecodeConfig,
    paths: RunPaths,
    tokenizer: Tokenizer,
    data: Dataset,
    encoded: Encoded,
    report: Report,
) -> Tokenizer:
    """The tokenizer with a decoder trained on its frozen latents, trained or found."""
    folder = paths.decoder(spec)
    saved = folder / "tokenizer"
    if _is_whole(saved):
        return load(saved)
    tokenizer = train_decoder(
        config, tokenizer, data.train.image, encoded(), folder=folder,
        progress=lambda done, total, metrics: report("decoder", done, total),
    )  # fmt: skip
    save(tokenizer, saved)
    return tokenizer


def _generators(
    spec: RunSpec,
    paths: RunPaths,
    tokenizer: Tokenizer,
    data: Dataset,
    encoded: Encoded,
    report: Report,
) -> dict[int, Generator]:
    """The generator after each of `spec.budgets` steps, trained or found."""
    folder = paths.generator(spec)
    saved = {steps: folder / f"generator-{steps}.safetensors" for steps in spec.budgets}
    is_there = [saved[steps].exists() for steps in spec.budgets]
    if not all(is_there):
        if is_there != sorted(is_there, reverse=True):
            # A later one is there: the training is past the one that was lost.
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        report("latents", 0, 1)
        latents = np.asarray(tokenizer.normalize_latents(jnp.asarray(encoded())))
        of = latents_hash(tokenizer)

        def keep(step: int, dit: DiT) -> None:
            save_generator(Generator(dit, of), saved[step])

        keep(spec.budgets[-1], train_generator(
            spec.generate, latents, data.train.labels(spec.labels),
            folder=folder, snapshot=keep, snapshot_steps=spec.budgets,
            progress=lambda done, total, metrics: report("generator", done, total),
        ))  # fmt: skip
    return {steps: load_generator(path, tokenizer) for steps, path in saved.items()}


def _is_whole(saved: Path) -> bool:
    """Whether a tokenizer was saved to its end: the config is written last."""
    return (saved / CONFIG_FILE).exists()
