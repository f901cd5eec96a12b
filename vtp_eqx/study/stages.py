"""From a point to its numbers: data, tokenizer, latents, generator, measurement.

Every stage leaves its result in a place of its own and is skipped where that exists.
"""

from collections.abc import Callable
import functools
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from vtp_eqx.config import DecodeConfig, require
from vtp_eqx.evaluation.batches import encoded_latents
from vtp_eqx.files import alone
from vtp_eqx.models.arrays import latents_hash
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.study.dataset import Dataset, load_dataset
from vtp_eqx.study.measure import BATCH, measure, Result
from vtp_eqx.study.point import Places, Point
from vtp_eqx.tensor_files import CONFIG_FILE
from vtp_eqx.tokenizer import load, save
from vtp_eqx.training.decode import train_decoder
from vtp_eqx.training.generate import train_generator
from vtp_eqx.training.pretrain import latent_statistics, pretrain


Report = Callable[[str, int, int], None]
Encoded = Callable[[], np.ndarray]  # the raw latents of the training images


def run_point(point: Point, places: Places, report: Report) -> Result:
    """The numbers of a point, made or found."""
    found = Result.read(places.point(point))
    if found is not None:
        return found
    report("data", 0, 1)
    data = load_dataset(point, places.data(point))
    # Another study may be making the same: wait for it, and find what it made.
    with alone(places.tokenizer(point)):
        tokenizer = encoder = _tokenizer(point, places, data, report)
    # A new decoder leaves latents as they are, and who finds all made needs none.
    images = data.train.image
    encode = functools.partial(encoded_latents, encoder, images, batch_size=BATCH)
    encoded = functools.cache(encode)
    if point.decode is not None:
        with alone(places.decoder(point)):
            tokenizer = _decoded(
                point, point.decode, places, tokenizer, data, encoded, report
            )
        require(
            latents_hash(tokenizer) == latents_hash(encoder),
            "A decoder belongs to the tokenizer it was trained behind; got another in "
            f"{places.decoder(point)}: remove that folder, and run again.",
        )
    with alone(places.generator(point)):
        generator = _generator(point, places, tokenizer, data, encoded, report)
    folder = places.point(point)
    with alone(folder):
        found = Result.read(folder)
        if found is not None:
            return found
        report("measuring", 0, 1)
        return measure(point, tokenizer, generator, data, folder, report)


def _tokenizer(
    point: Point, places: Places, data: Dataset, report: Report
) -> Tokenizer:
    """The tokenizer with its latent statistics, trained or found."""
    folder = places.tokenizer(point)
    saved = folder / "tokenizer"
    if _is_whole(saved):
        return load(saved)
    arrays = {"image": data.train.image}
    if data.train.caption_ids is not None:
        arrays["caption"] = data.train.caption_ids
    tokenizer = pretrain(
        point.pretrain, arrays, folder=folder, group=data.group,
        progress=lambda done, total, metrics: report("tokenizer", done, total),
    )  # fmt: skip
    mean, std = latent_statistics(
        encoded_latents(tokenizer, data.train.image, batch_size=BATCH)
    )
    tokenizer = eqx.tree_at(
        lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std),
        tokenizer, (mean, std),
    )  # fmt: skip
    save(tokenizer, saved)
    return tokenizer


def _decoded(
    point: Point,
    config: DecodeConfig,
    places: Places,
    tokenizer: Tokenizer,
    data: Dataset,
    encoded: Encoded,
    report: Report,
) -> Tokenizer:
    """The tokenizer with a decoder trained on its frozen latents, trained or found."""
    folder = places.decoder(point)
    saved = folder / "tokenizer"
    if _is_whole(saved):
        return load(saved)
    tokenizer = train_decoder(
        config, tokenizer, data.train.image, encoded(), folder=folder,
        progress=lambda done, total, metrics: report("decoder", done, total),
    )  # fmt: skip
    save(tokenizer, saved)
    return tokenizer


def _generator(
    point: Point,
    places: Places,
    tokenizer: Tokenizer,
    data: Dataset,
    encoded: Encoded,
    report: Report,
) -> Generator:
    """The generator on that tokenizer's latents, trained or found."""
    folder = places.generator(point)
    saved = folder / "generator.safetensors"
    if saved.exists():
        # Bound to what it was trained on, not to what it is found beside.
        return load_generator(saved)
    report("latents", 0, 1)
    latents = np.asarray(tokenizer.normalize_latents(jnp.asarray(encoded())))
    dit = train_generator(
        point.generate, latents, data.train.label,
        folder=folder,
        progress=lambda done, total, metrics: report("generator", done, total),
    )  # fmt: skip
    generator = Generator(dit, latents_hash(tokenizer))
    save_generator(generator, saved)
    return generator


def _is_whole(saved: Path) -> bool:
    """Whether a tokenizer was saved to its end: the config is written last."""
    return (saved / CONFIG_FILE).exists()
