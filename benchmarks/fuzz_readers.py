"""What the fuzz mutates, and the public readers that it goes through.

Each reader has sound files, which are made once, a way to damage them, and a call that
reads all that they hold and ends in a number.
"""

from collections.abc import Callable
import dataclasses
import io
from pathlib import Path
import random
import shutil
import tarfile

import equinox as eqx
import jax
import numpy as np
import optax

from benchmarks.fuzz_files import mutated
from benchmarks.fuzz_formats import (
    image_bytes,
    IMAGES,
)
from vtp_eqx.config import SamplerConfig, TokenizerConfig
from vtp_eqx.conversion import read_model, small_models
from vtp_eqx.data.crops import CenterCrop
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.latents import LatentIndex, write_npy_shard
from vtp_eqx.data.sources import open_source
from vtp_eqx.data.text.caption_bpe import CaptionTokenizer, train_tokenizer
from vtp_eqx.evaluation import card
from vtp_eqx.evaluation.frechet import frechet_distance, Moments
from vtp_eqx.evaluation.images import Images, read_square
from vtp_eqx.evaluation.labels import first_labels
from vtp_eqx.evaluation.prompts import (
    check_class_names,
    describe_classes,
    fill_templates,
    read_class_names,
    read_templates,
)
from vtp_eqx.evaluation.reference import read_reference, Reference, write_reference
from vtp_eqx.evaluation.sample_record import (
    read_sample_record,
    SampleRecord,
    write_sample_record,
)
from vtp_eqx.frozen.weights import read_tensors
from vtp_eqx.interop.lightningdit import save_published_dit
from vtp_eqx.interop.lightningdit.latents import (
    STATISTICS_FILE,
    write_published_shard,
    write_published_statistics,
)
from vtp_eqx.losses.weighting import FixedWeights
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.models.generator import GENERATOR_FILE, load_generator, save_generator
from vtp_eqx.runs.checkpoint import Checkpoints
from vtp_eqx.runs.extract_latents import open_latents
from vtp_eqx.runs.log import read_log
from vtp_eqx.runs.run_dir import write_config
from vtp_eqx.tensor_files import write_tensors, write_torch_file
from vtp_eqx.tokenizer import load, save, save_diffusers, save_published
from vtp_eqx.training.state import TrainState


Rng = random.Random
LEGACY = Path(__file__).parent.parent / "tests/golden/torch_legacy/tensors.pth"


@dataclasses.dataclass(frozen=True)
class FuzzedReader:
    """`make` writes sound files into a folder, `open` reads them.

    `mutates` are the files that are damaged, by a pattern, one at a time.
    """

    make: Callable[[Path], None]
    open: Callable[[Path], float]
    mutates: str = "**/*"

    def mutate(self, folder: Path, rng: Rng, marker: str) -> str:
        """Damages one file of a folder, and says which."""
        paths = sorted(path for path in folder.glob(self.mutates) if path.is_file())
        path = rng.choice(paths)
        content = path.read_bytes()
        path.write_bytes(mutated(path.name, content, rng, marker))
        return path.name


def read_all(path: Path) -> float:
    """The mean of all images of a source, and their labels; errors as for one image."""
    source = open_source(path)
    images = Images(source=source, crop=CenterCrop(8))
    total = 0.0
    if _has_labels(source):
        first_labels(images)
    unread = None
    for row in range(min(len(source), 20)):
        example = read_square(images, row)
        if example.image is None:
            unread = UnreadableImageError(example.name, example.reason)
        else:
            total += float(example.image.mean()) + example.label
    if unread is not None:
        raise unread
    return total


def _has_labels(source: object) -> bool:
    arrays = getattr(source, "arrays", {})
    return bool(getattr(source, "class_names", ())) or "label" in arrays


def _images(folder: Path) -> None:
    for kind in IMAGES:
        (folder / f"a.{kind}").write_bytes(image_bytes(kind))


def _open_images(folder: Path) -> float:
    """Of the file that was changed last: the others are as they were."""
    total = 0.0
    newest = max(path.stat().st_mtime_ns for path in folder.iterdir())
    for path in sorted(folder.iterdir()):
        if path.stat().st_mtime_ns < newest:
            continue
        content = path.read_bytes()
        total += float(decode_image(content, path.name, least=8).mean())
        total += float(decode_image(content, path.name).mean())
    return total


def _folder(folder: Path) -> None:
    for name in ("8", "10"):
        (folder / name).mkdir()
        for number in range(2):
            place = folder / name / f"{number}.png"
            place.write_bytes(image_bytes("png"))
            place.with_suffix(".txt").write_text("A red circle, é.\n")
            place.with_suffix(".json").write_text('{"caption": "a b", "label": 3}')


def _tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, kind in enumerate(("png", "jpg")):
            for suffix, content in (
                (kind, image_bytes(kind)), ("txt", b"a caption"), ("cls", b"3"),
                ("json", b'{"caption": "x", "label": 2, "width": 10}'),
            ):  # fmt: skip
                info = tarfile.TarInfo(f"class/{number:04d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _npz(folder: Path) -> None:
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    np.savez(folder / "a.npz", arr_0=images, arr_1=np.arange(4))


_WIDTH = 6


def _moments() -> Moments:
    return Moments.of(np.random.default_rng(0).normal(size=(20, _WIDTH)))


def _reference(folder: Path) -> None:
    features = np.random.default_rng(1).normal(size=(20, _WIDTH))
    write_reference(
        folder / "a.npz",
        Reference(
            moments=_moments(), spatial=_moments(), features=features,
            network="scene-network", network_hash="ab", image_size=8,
        ),
    )  # fmt: skip


def _open_reference(folder: Path) -> float:
    reference = read_reference(folder / "a.npz", count=None)
    reference.check_network("scene-network", "ab")
    total = frechet_distance(
        Moments.of(np.eye(reference.moments.mean.size)), reference.moments
    )
    return total + sum(len(one) for one in (reference.features,) if one is not None)


def _samples(folder: Path) -> None:
    _npz(folder)
    hashes = dict.fromkeys(
        ("tokenizer_hash", "latents_hash", "generator_hash", "generator_latents_hash"),
        "a",
    )
    write_sample_record(
        folder,
        SampleRecord(
            num_samples=4, sampler=SamplerConfig(), labels="balanced", seed=0,
            precision="float32", **hashes,
        ),
    )  # fmt: skip


def _open_samples(folder: Path) -> float:
    return read_sample_record(folder / "a.npz").num_samples + read_all(folder / "a.npz")


def _classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("a red circle\nblue_square\n\nécole\n")
    (folder / "templates.txt").write_text("a photo of {}.\nthe {}\n")


def _open_classes(folder: Path) -> float:
    names = read_class_names(folder / "classes.txt")
    check_class_names(names, np.arange(3))
    prompts = fill_templates(names, read_templates(folder / "templates.txt"))
    return len(describe_classes(names)) + sum(map(len, prompts))


def _words(folder: Path) -> None:
    train_tokenizer(["a red circle", "a blue square"] * 9, 280).save(
        folder / "words.json"
    )


def _open_words(folder: Path) -> float:
    tokenizer = CaptionTokenizer.load(folder / "words.json")
    return float(tokenizer.encode(["a red thing"], 20, truncate=True).sum())


def _sum(model: object) -> float:
    """A number of all arrays of a model."""
    found = named_arrays(eqx.filter(model, eqx.is_array))
    return float(
        sum(float(np.abs(np.asarray(array)).sum()) for array in found.values())
    )


def _tokenizers(kind: str) -> FuzzedReader:
    writers = {"ours": save, "published": save_published, "diffusers": save_diffusers}
    return FuzzedReader(
        make=lambda folder: writers[kind](small_models()[0], folder),
        open=lambda folder: _sum(load(folder)),
        mutates="*[ns]",  # json and safetensors
    )


def _generator(folder: Path) -> None:
    save_generator(small_models()[1], folder / GENERATOR_FILE)


def _published_generator(folder: Path) -> None:
    save_published_dit(small_models()[1].dit, folder / "dit.pt")


def _open_published_generator(folder: Path) -> float:
    return _sum(read_model(folder / "dit.pt")[0])


def _weights(folder: Path) -> None:
    tensors = {"a.weight": np.ones((3, 2), np.float32), "b": np.arange(4.0)}
    np.savez(folder / "a.npz", **tensors)
    write_tensors(folder / "a.safetensors", tensors)
    write_torch_file(folder / "a.pt", tensors)
    shutil.copy(LEGACY, folder / "legacy.pth")


def _open_weights(folder: Path) -> float:
    found = [read_tensors(path) for path in sorted(folder.iterdir())]
    return sum(array.size for tensors in found for array in tensors.values())


def _latents(dtype: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        drawn = np.random.default_rng(0).normal(size=(4, 2, 2, 2, 3)).astype(np.float32)
        labels = np.arange(4)
        layout = "npy"
        if dtype == "published":
            layout = "published"
            record = write_published_shard(folder, 0, drawn, labels, "float32")
        else:
            record = write_npy_shard(folder, 0, drawn, np.arange(4), labels, dtype)
        LatentIndex(
            encoder_hash="a", source="b", crop="c", views=("center", "flip"),
            view_settings={}, dtype="float32", layout=layout, shard_images=4,
            limit=None, latents_hash="a", num_images=4, mean=(0.0,) * 3,
            std=(1.0,) * 3, shards=(record,),
        ).write(folder)  # fmt: skip

    return make


def _foreign_latents(folder: Path) -> None:
    _latents("published")(folder)
    (folder / "index.json").unlink()
    write_published_statistics(
        folder / STATISTICS_FILE, np.zeros(3, np.float32), np.ones(3, np.float32)
    )


def _open_latents(folder: Path) -> float:
    cache = open_latents(folder)
    cache.check_labels(4)
    rows = np.arange(len(cache))
    total = sum(
        float(np.abs(cache.read(rows, np.full(len(rows), view))).mean())
        for view in range(cache.num_views)
    )
    return total + float(cache.mean.sum() + cache.std.sum())


def _state() -> TrainState:
    student = small_models()[0]
    weights = FixedWeights({"a": 1.0})
    student = _Tokenized(student)
    return TrainState.start(
        student, student, weights, optax.sgd(0.1), key=jax.random.key(0)
    )


class _Tokenized(eqx.Module):
    """A student with a tokenizer where a pre-training has it."""

    tokenizer: eqx.Module


def _run(folder: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        tokenizer: TokenizerConfig

    write_config(folder, Config(tokenizer=small_models()[0].config))
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "seconds": 2.0, "total": 0.5}\n' * 2
    )
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(_state())


def _open_run(folder: Path) -> float:
    read_log(folder / "metrics.jsonl")
    return _sum(load(folder))


def _open_resumed(folder: Path) -> float:
    with Checkpoints(folder / "checkpoints", say=lambda _: None) as checkpoints:
        return _sum(checkpoints.restore(_state()).student)


def _card(folder: Path) -> None:
    made = card.EvaluationCard(
        num_samples=4, num_reference=4, reference_hash="a", tokenizer_hash="b",
        latents_hash="c", precision="float32", feature_network="scene-network",
        feature_hash="d", sampler=SamplerConfig(), labels="balanced",
        generator_hash="e", generator_latents_hash="c",
    )  # fmt: skip
    card.write(folder / "card.json", {"gFD-scenes": 1.5}, made, num_evaluated=4)


def _open_card(folder: Path) -> float:
    numbers, found = card.read(folder / "card.json")
    return sum(numbers.values()) + found.num_samples


READERS = {
    "images": FuzzedReader(_images, _open_images),
    "folder": FuzzedReader(_folder, read_all),
    "tar": FuzzedReader(_tar, lambda folder: read_all(folder / "a.tar"), "*.tar"),
    "index of a tar": FuzzedReader(
        _tar, lambda folder: read_all(folder / "a.tar"), ".index/*"
    ),
    "npz of images": FuzzedReader(_npz, lambda folder: read_all(folder / "a.npz")),
    "reference .npz": FuzzedReader(_reference, _open_reference),
    "samples": FuzzedReader(_samples, _open_samples),
    "classes, templates": FuzzedReader(_classes, _open_classes),
    "vocabulary": FuzzedReader(_words, _open_words),
    "tokenizer": _tokenizers("ours"),
    "published tokenizer": _tokenizers("published"),
    "diffusers folder": _tokenizers("diffusers"),
    "generator": FuzzedReader(_generator, lambda folder: _sum(load_generator(folder))),
    "published generator": FuzzedReader(
        _published_generator, _open_published_generator
    ),
    "weights": FuzzedReader(_weights, _open_weights),
    "latents": FuzzedReader(_latents("float32"), _open_latents),
    "latents of bytes": FuzzedReader(_latents("uint8"), _open_latents),
    "LightningDiT latents": FuzzedReader(_foreign_latents, _open_latents),
    "run": FuzzedReader(_run, _open_run, "*.json*"),
    "checkpoint": FuzzedReader(_run, _open_run, "checkpoints/**/*"),
    "resumed checkpoint": FuzzedReader(_run, _open_resumed, "checkpoints/**/*"),
    "card": FuzzedReader(_card, _open_card),
}
